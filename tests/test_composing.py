"""`tests/composing.py` hides no change from the tests: neither of a file, nor of what an earlier test did to a result."""

from kdad.settings.compose import compose


def test_a_changed_file_is_seen(tmp_path):
    file = tmp_path / "model/mine.yaml"
    file.parent.mkdir()
    for chosen in ("none", "imagenet"):
        file.write_text(f"# @package _global_\ndefaults:\n  - rd\nnormalisation: {chosen}\n")
        found = compose("model=mine", f"hydra.searchpath=[file://{tmp_path}]")
        assert found.normalisation == chosen
    file.unlink()
    assert compose("model=rd").normalisation == "auto"


def test_what_is_returned_is_a_copy():
    whole = compose("model=rd", hydra_too=True)
    whole.model.name = whole.hydra.runtime.choices.model = "changed"
    whole.trainer.max_epochs = -5
    again = compose("model=rd", hydra_too=True)
    assert again.model.name == again.hydra.runtime.choices.model == "rd" and again.trainer.max_epochs > 0
