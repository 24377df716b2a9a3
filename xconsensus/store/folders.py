"""Where each artefact lies below outputs/<dataset>."""

from dataclasses import dataclass, field
from pathlib import Path

from xconsensus.errors import DamagedError, maker_of, safe_name


def damaged(path: Path, reason: str) -> DamagedError:
    """The error of an artefact that is not as it was written; it names the stage that makes it again."""
    stage = maker_of(path)
    return DamagedError(path, reason, f"xconsensus {stage}" if stage else "the stage that made it")


@dataclass(frozen=True)
class Store:
    """The folder of one data set, outputs/<dataset>: where each artefact lies."""

    output_dir: Path
    dataset: str
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.output_dir / safe_name(self.dataset, "dataset.name"))

    def weights(self, member: str) -> Path:
        """Trained weights; beside it, .json with history, accuracy and settings."""
        return self.root / "weights" / f"{safe_name(member, 'member')}.safetensors"

    def checkpoint(self, member: str) -> Path:
        """The state of an unfinished training."""
        return self.root / "weights" / f"{safe_name(member, 'member')}.checkpoint.safetensors"

    def predictions(self, split: str, member: str) -> Path:
        """Probabilities of a split's images."""
        return self.root / "predictions" / safe_name(split, "split") / f"{safe_name(member, 'member')}.safetensors"

    def contents(self, split: str) -> Path:
        """What the images of a split held when they were looked at: no tensors of the user's, so of no such name."""
        path = self.root / "contents" / f"{safe_name(split, 'split')}.digests"
        before = path.with_suffix(".safetensors")  # the name of before, kept where it is there
        return before if before.is_file() else path

    def worklog(self, stage: str, name: str) -> Path:
        """The log of a stage's work on a member, or on a committee's figures; explain has a folder an explainer."""
        return self.root / "status" / stage / f"{safe_name(name, 'member')}.json"

    def probe(self, member: str) -> Path:
        """What a member's network was found to keep to."""
        return self.root / "status" / "probe" / f"{safe_name(member, 'member')}.json"

    def images(self, committee: str) -> Path:
        """The images a committee explains: image_id, path, label."""
        return self.root / "images" / f"{safe_name(committee, 'committee.name')}.csv"

    def superpixels(self, segmenter: str) -> Path:
        """Folder of label maps."""
        return self.root / "superpixels" / safe_name(segmenter, "explainer.segmenter.name")

    def explanations(self, explainer: str, member: str) -> Path:
        """Folder of one member's explanations."""
        return self.root / "explanations" / safe_name(explainer, "explainer.name") / safe_name(member, "member")

    def consensus(self, committee: str, explainer: str) -> Path:
        """Folder of a committee's consensus."""
        return self.root / "consensus" / safe_name(committee, "committee.name") / safe_name(explainer, "explainer.name")

    def scores(self, committee: str, explainer: str) -> Path:
        """Folder of members.csv and the other tables of scores."""
        return self.root / "scores" / safe_name(committee, "committee.name") / safe_name(explainer, "explainer.name")

    def locations(self, committee: str, explainer: str) -> Path:
        """Folder of boxes and masks: the consensus's in a folder of its own, members' in theirs."""
        return self.root / "locations" / safe_name(committee, "committee.name") / safe_name(explainer, "explainer.name")

    def figures(self, committee: str) -> Path:
        """Folder of a committee's figures."""
        return self.root / "figures" / safe_name(committee, "committee.name")

    def tables(self, committee: str) -> Path:
        """Folder of a committee's tables."""
        return self.root / "tables" / safe_name(committee, "committee.name")
