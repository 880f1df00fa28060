"""The house's own rules: arrows that run one way, tasks that do not know each other, imports that stay light."""

import json
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parents[1]

HEAVY = ("timm", "datasets", "matplotlib", "sklearn", "pandas", "peft", "evaluate", "rasterio")


def test_arrows_run_one_way(capsys):
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


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
