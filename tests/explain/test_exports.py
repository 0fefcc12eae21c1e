"""What explain offers is all there, and nothing of it is hidden by a module of the same name."""

import subprocess
import sys

import xpruner.explain


def test_every_export_has_the_name_it_is_exported_by():
    for name in xpruner.explain.__all__:
        assert getattr(xpruner.explain, name).__name__ == name
    assert dir(xpruner.explain) == sorted(xpruner.explain.__all__)


def test_importing_explain_loads_no_torch():
    code = "import sys, xpruner.explain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
