import importlib.util
import subprocess
import sys

import pytest
import torch

from xpruner import _torchvision


def python(code: str) -> str:
    """Runs code in a fresh interpreter and returns what it printed."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_timm_imports_after_xpruner():
    assert python("import xpruner, timm, torch; print(hasattr(torch.ops.torchvision, 'nms'))") == "True"


def test_nothing_heavy_is_loaded_until_torchvision_is_imported_and_then_no_finder_is_left():
    assert python("import sys, xpruner; print({'torch', 'torchvision', 'timm'} & set(sys.modules))") == "set()"
    count = "sum(type(f).__name__ == '_BeforeTorchvision' for f in sys.meta_path)"
    assert python(f"import sys, xpruner; a = {count}; import torchvision; print(a, {count})") == "1 0"


@pytest.fixture
def undeclared(monkeypatch) -> list:
    """A process in which nothing has been declared yet: the list that declared libraries are kept in."""
    libraries = []
    monkeypatch.setattr(_torchvision, "_libraries", libraries)
    return libraries


def test_nothing_is_declared_where_torchvision_is_absent(undeclared, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _torchvision.declare_torchvision_ops()
    assert undeclared == []


def test_nothing_is_declared_where_the_extension_loads(undeclared, monkeypatch):
    monkeypatch.setattr(_torchvision, "_extension_loads", lambda package: True)
    _torchvision.declare_torchvision_ops()
    assert undeclared == []


def test_schemas_are_declared_where_the_extension_does_not_load(undeclared, monkeypatch):
    monkeypatch.setattr(_torchvision, "_extension_loads", lambda package: False)
    _torchvision.declare_torchvision_ops()
    assert len(undeclared) == 1
    assert hasattr(torch.ops.torchvision, "nms") and hasattr(torch.ops.torchvision, "qnms")


def test_a_package_without_an_extension_does_not_load(tmp_path):
    assert not _torchvision._extension_loads(tmp_path)


def test_a_broken_extension_does_not_load(tmp_path):
    (tmp_path / "_C.so").write_bytes(b"not a library")
    assert not _torchvision._extension_loads(tmp_path)


def test_an_extension_that_torch_takes_loads(tmp_path, monkeypatch):
    (tmp_path / "_C.cpython-311.so").touch()
    taken = []
    monkeypatch.setattr(torch.ops, "load_library", taken.append)
    assert _torchvision._extension_loads(tmp_path)
    assert taken == [tmp_path / "_C.cpython-311.so"]
