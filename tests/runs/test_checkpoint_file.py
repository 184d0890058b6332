"""A checkpoint that is damaged is found before anybody reads it, and the one before takes its place."""

import pickle
import resource

import lightning as L
import pytest
import torch

from lightning_coba.errors import DamagedFileError, UserError
from lightning_coba.runs.checkpoint_file import TO_RESUME, checkpoint_to_resume, load_checkpoint, written_whole
from lightning_coba.runs.files import RunFiles


@pytest.fixture
def files(tmp_path):
    """A run of which two checkpoints are there."""
    files = RunFiles(tmp_path)
    files.checkpoints.mkdir()
    for step, file in enumerate((files.previous_checkpoint, files.last_checkpoint)):
        torch.save(checkpoint(step), file)
    return files


def checkpoint(step, **changes):
    parts = {"loops": {}, "callbacks": {}, "optimizer_states": [], "lr_schedulers": [], "epoch": 0}
    parts |= {"state_dict": {"weight": torch.arange(5000.0)}, "global_step": step}
    return parts | {"pytorch-lightning_version": L.__version__} | changes


def flipped(content, place=0.5):
    position = int(len(content) * place)
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES = {
    "cut off": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: b"garbage" * 100,
    "one bit": flipped,
    "a pickle": lambda content: pickle.dumps({"state_dict": {}}),
}


def damage(file, how):
    file.write_bytes(DAMAGES[how](file.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_takes_its_place(files, how):
    assert checkpoint_to_resume(files) == files.last_checkpoint
    damage(files.last_checkpoint, how)
    with pytest.raises(DamagedFileError) as error:
        load_checkpoint(files.last_checkpoint)
    assert error.value.where == str(files.last_checkpoint)
    assert "weights_only" not in str(error.value)
    with pytest.warns(UserWarning, match=r"last\.ckpt: the file is damaged.*previous\.ckpt"):
        assert checkpoint_to_resume(files, set_aside=True) == files.previous_checkpoint
    assert not files.last_checkpoint.exists()  # it would be kept as the previous one
    assert checkpoint_to_resume(files) == files.previous_checkpoint
    damage(files.previous_checkpoint, how)
    with pytest.raises(DamagedFileError, match=r"previous\.ckpt.*delete it"):
        checkpoint_to_resume(files)


class Stranger:
    """Something that a checkpoint never holds."""


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, Stranger(), {"state_dict": {}, "x": Stranger()}])
def test_what_is_no_checkpoint_of_a_fit_is_refused(files, content):
    torch.save(content, files.last_checkpoint)
    with pytest.raises(DamagedFileError, match=r"last\.ckpt: the file is damaged, or") as error:
        load_checkpoint(files.last_checkpoint, TO_RESUME)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("part", ["loops", "callbacks", "optimizer_states"])
def test_a_part_that_is_missing_is_named(files, part):
    parts = checkpoint(1)
    del parts[part]
    torch.save(parts, files.last_checkpoint)
    with pytest.raises(DamagedFileError, match=rf"it has no {part}\."):
        load_checkpoint(files.last_checkpoint, TO_RESUME)


@pytest.mark.parametrize("changes", [{"callbacks": []}, {"global_step": "x"}, {"epoch": -5}, {"loops": None}])
def test_a_part_of_another_type_is_named(files, changes):
    torch.save(checkpoint(1, **changes), files.last_checkpoint)
    with pytest.raises(DamagedFileError, match=f"{next(iter(changes))} is not what Lightning writes"):
        load_checkpoint(files.last_checkpoint, TO_RESUME)


def test_a_checkpoint_of_a_later_lightning_says_which(files):
    torch.save(checkpoint(1, **{"pytorch-lightning_version": "99.1.0"}), files.last_checkpoint)
    with pytest.raises(UserError, match=r"written by lightning 99\.1\.0; this is .*Install"):
        checkpoint_to_resume(files)


def test_the_one_before_is_kept_and_a_failed_write_changes_nothing(files):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    last = files.last_checkpoint.read_bytes()
    with written_whole(trainer, files.last_checkpoint, files.previous_checkpoint) as partial:
        partial.write_bytes(b"new")
    assert files.last_checkpoint.read_bytes() == b"new"
    assert files.previous_checkpoint.read_bytes() == last
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk would refuse
    try:
        with (
            pytest.raises(UserError, match=r"last\.ckpt: the checkpoint could not be written.*resume=auto"),
            written_whole(trainer, files.last_checkpoint, files.previous_checkpoint) as partial,
            partial.open("wb") as stream,
        ):
            stream.write(b"0" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files.last_checkpoint.read_bytes() == b"new"
    assert not partial.exists()
