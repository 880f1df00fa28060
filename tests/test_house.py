"""The house's own rules: arrows that run one way, tasks that do not know each other, imports that stay light."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

HEAVY = ("timm", "datasets", "matplotlib", "sklearn", "pandas", "peft", "evaluate", "rasterio")


def test_arrows_run_one_way(run_python):
    # in a process of its own: import-linter sets up logging anew
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = run_python(code, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_importing_geohf_brings_in_nothing_heavy(run_python):
    """What `from transformers import AutoModel, PreTrainedModel` does not import, geohf does not add."""
    found = run_python(
        f"""
        import json, sys
        from transformers import AutoModel, PreTrainedModel
        before = [name for name in {HEAVY} if name in sys.modules]
        import geohf
        print(json.dumps([name for name in {HEAVY} if name in sys.modules and name not in before]))
        """
    )
    assert json.loads(found.splitlines()[-1]) == []
