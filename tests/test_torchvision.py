import subprocess
import sys

import pytest
import torch

from xpruner import _torchvision as _compat

DECLARE = "from xpruner._torchvision import declare_torchvision_ops as declare; declare();"


def python(code: str) -> str:
    """Runs code in a fresh interpreter and returns what it printed."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_timm_imports_after_the_declaration_which_may_be_made_twice_before_and_again_after_it():
    code = f"{DECLARE} declare(); import timm; declare(); import torch; print(hasattr(torch.ops.torchvision, 'nms'))"
    assert python(code) == "True"


def test_importing_the_workaround_loads_nothing_heavy():
    assert (
        python("import sys, xpruner._torchvision; print({'torch', 'torchvision', 'timm'} & set(sys.modules))")
        == "set()"
    )


@pytest.fixture
def undeclared(monkeypatch) -> list:
    """A process in which nothing has been declared yet: the list that declared libraries are kept in."""
    libraries = []
    monkeypatch.setattr(_compat, "_libraries", libraries)
    return libraries


def test_nothing_is_declared_where_torchvision_is_absent(undeclared, monkeypatch):
    monkeypatch.setattr(_compat.importlib.util, "find_spec", lambda name: None)
    _compat.declare_torchvision_ops()
    assert undeclared == []


def test_nothing_is_declared_where_the_extension_loads(undeclared, monkeypatch):
    monkeypatch.setattr(_compat, "_extension_loads", lambda package: True)
    _compat.declare_torchvision_ops()
    assert undeclared == []


def test_schemas_are_declared_where_the_extension_does_not_load(undeclared, monkeypatch):
    monkeypatch.setattr(_compat, "_extension_loads", lambda package: False)
    _compat.declare_torchvision_ops()
    assert len(undeclared) == 1
    assert hasattr(torch.ops.torchvision, "nms") and hasattr(torch.ops.torchvision, "qnms")


def test_a_package_without_an_extension_does_not_load(tmp_path):
    assert not _compat._extension_loads(tmp_path)


def test_a_broken_extension_does_not_load(tmp_path):
    (tmp_path / "_C.so").write_bytes(b"not a library")
    assert not _compat._extension_loads(tmp_path)


def test_an_extension_that_torch_takes_loads(tmp_path, monkeypatch):
    (tmp_path / "_C.cpython-311.so").touch()
    taken = []
    monkeypatch.setattr(torch.ops, "load_library", taken.append)
    assert _compat._extension_loads(tmp_path)
    assert taken == [tmp_path / "_C.cpython-311.so"]
