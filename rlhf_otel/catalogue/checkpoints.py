"""What can be wrong with a checkpoint: the kinds of findings, their thresholds, and what they cost its health.

A finding's *damage* (0 to 1) is the share of the health that it takes; see ``checkpoints/health.py``. From 0.7
on the checkpoint should not be used, from 0.2 on somebody should look, and below that it is a remark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from rlhf_otel.catalogue.rules import Severity

CRITICAL_DAMAGE: Final = 0.7
WARNING_DAMAGE: Final = 0.2

EXPLODED_RATIO: Final = 30.0
"""RMS of a matrix over the median of its siblings from which it has exploded. Heuristic: layers of public
models differ by less than 5."""
SWOLLEN_RATIO: Final = 8.0
"""... and from which somebody should look."""
VECTOR_RATIO: Final = 100.0
"""The same for gains of normalisation, which differ by up to 10 between the layers of public models."""
PAIR_RATIO: Final = 100.0
"""The same where a matrix has a single sibling: it cannot be said which of two is usual."""
VANISHED_RATIO: Final = 1e-3
"""RMS over the median of the siblings up to which a matrix has no effect any more. Heuristic."""
ABSOLUTE_RMS: Final = 100.0
"""RMS from which any weight has exploded; the largest of public models, T5's embeddings, are near 10."""
SPARSE_RATIO: Final = 0.5
"""Share of zeros from which a matrix is mostly zero, where its siblings' is below a tenth of that."""
OVERFLOW_SHARE: Final = 0.5
"""Share of the largest number of a half-precision type from which a weight is about to overflow."""
FP16_LARGEST: Final = 65504.0
REPLACED_DRIFT: Final = 0.5
"""Relative drift (‖Δ‖/‖w‖) from the checkpoint before from which a tensor may have been replaced ..."""
REPLACED_MULTIPLE: Final = 10.0
"""... if it is also so many times the median drift of all weights."""
TURNED_COSINE: Final = 0.2
"""Or if its cosine with the one before is below this. Heuristic: what is unrelated has a cosine near 0."""
REPLACED_COSINE: Final = 0.5
"""Cosine of all weights with the checkpoint before, below which these are other weights."""
LARGE_DRIFT: Final = 0.3
"""Relative drift of all weights from the checkpoint before from which the run is likely to diverge, or is pretraining."""
MOMENT_LARGEST: Final = 1e4
"""First moment of Adam, a mean of gradients, from which training has diverged. Heuristic: gradients are
clipped to a norm of about 1."""
LEARNING_RATE_LARGEST: Final = 0.1
"""Learning rate above which Adam and its kin do not train a transformer. Heuristic: public recipes stay below 0.01."""


@dataclass(frozen=True, slots=True)
class DriftBand:
    """What a relative drift between two checkpoints of a fine-tuning run means."""

    below: float
    judgement: str
    advice: str
    is_usual: bool = False


DRIFT_SCALE: Final[tuple[DriftBand, ...]] = (
    DriftBand(1e-5, "hardly moved", "in bf16 most updates are rounded away: train weights in fp32, or raise the learning rate"),
    DriftBand(0.03, "usual for fine-tuning", "nothing to do", is_usual=True),
    DriftBand(LARGE_DRIFT, "a large move", "look at learning rate, KL and reward between the two"),
    DriftBand(math.inf, "a very large move", "other weights, or a run that diverges; usual in pretraining alone"),
)  # fmt: skip
"""Heuristic: fine-tuning runs with public recipes lie in the second row."""


def band_of(drift: float) -> DriftBand:
    """The row of the scale that a drift above 0 is in."""
    return next((band for band in DRIFT_SCALE if drift < band.below), DRIFT_SCALE[-1])


@dataclass(frozen=True, slots=True)
class FindingKind:
    """One way in which a checkpoint can be wrong."""

    name: str
    damage: float
    meaning: str
    advice: str

    @property
    def severity(self) -> Severity:
        """What a person does about it; follows from the damage."""
        if self.damage >= CRITICAL_DAMAGE:
            return Severity.CRITICAL
        return Severity.WARNING if self.damage >= WARNING_DAMAGE else Severity.INFO


_GO_BACK = "Go back to the checkpoint before it"
_SAVE_AGAIN = "Copy or save it again; a partial file usually means that the disk was full, or the job was killed while saving"

FINDING_KINDS: Final[tuple[FindingKind, ...]] = (
    # Files
    FindingKind("unreadable-file", 1.0, "a file cannot be read as what its name says", _SAVE_AGAIN + "."),
    FindingKind("truncated-file", 1.0, "a file is shorter than its own header says", _SAVE_AGAIN + "."),
    FindingKind("missing-shard", 1.0, "the index names a file that is not there", _SAVE_AGAIN + "."),
    FindingKind("missing-tensor", 0.9, "the index names a tensor that no file has", "Load with strict key checks; save it again from the trainer, with the index."),
    FindingKind("misplaced-tensor", 0.9, "a tensor is in another shard than the index says: shards were exchanged or renamed", "Restore the shards' names, or save again; do not load it, weights may end up in wrong layers or stay at random."),
    FindingKind("unlisted-tensor", 0.1, "a shard has a tensor that the index does not name", "Harmless if it is a leftover; rebuild the index otherwise."),
    FindingKind("unsafe-pickle", 1.0, "a pickle wants to run code; it was not run", "Do not load this file with pickle. Find out where it comes from; ask for safetensors."),
    # Weights
    FindingKind("non-finite", 1.0, "weights are NaN or infinite", _GO_BACK + " and lower the learning rate, or train in bf16; a NaN spreads to every output."),
    FindingKind("exploded-layer", 0.85, "a layer's weights are far larger than those of its siblings", _GO_BACK + "; clip gradients, lower the learning rate, and look for a step with a gradient spike."),
    FindingKind("swollen-layer", 0.4, "a layer's weights are several times larger than those of its siblings", "Compare with the checkpoint before (`rlhf-otel checkpoint diff`): if it grew, watch the gradient norm of that layer."),
    FindingKind("dead-layer", 0.85, "a layer's weights are all zero while its siblings' are not", _GO_BACK + "; a zeroed layer comes from a failed gather of shards, an interrupted save or a wrong merge."),
    FindingKind("vanished-layer", 0.75, "a layer's weights are almost zero beside its siblings'", _GO_BACK + "; look for a wrong scale in a merge or a quantisation, or too strong a weight decay."),
    FindingKind("mostly-zero", 0.4, "most of a layer's weights are zero while its siblings' are not", "Compare with the checkpoint before; parts of the layer may not have been gathered when it was saved."),
    FindingKind("dtype-overflow", 0.8, "weights come close to the largest number of their type", _GO_BACK + "; train or save in bf16: the next update or the first product overflows."),
    FindingKind("exceeds-fp16", 0.4, "weights are too large for fp16", "Do not convert it to fp16; look why single weights are this large."),
    FindingKind("tied-weights-torn", 0.75, "embedding and output layer are tied by the configuration but differ", "Save from the trainer again; merged or converted checkpoints must tie before saving, or set tie_word_embeddings to false."),
    # Adapters
    FindingKind("adapter-dead", 0.85, "an adapter's A and B are both all zero: it has no effect, and no gradient reaches it", "Initialise A anew; check what loaded or merged this adapter."),
    FindingKind("adapter-zero", 0.4, "the adapter is all zeros after training steps: it has no effect", "Check that the adapter is active and its parameters require gradients, and that the optimizer was built after adding it."),
    FindingKind("adapter-partly-zero", 0.3, "some of the adapter's modules are all zeros while others were trained", "Check target_modules and which of their parameters get gradients."),
    FindingKind("adapter-fresh", 0.0, "the adapter is all zeros, as freshly initialised", "Nothing to do before training."),
    # Training state
    FindingKind("moments-non-finite", 0.9, "the optimizer's moments are NaN or infinite, or a second moment is negative", "Resume from the checkpoint before it, or from these weights with a fresh optimizer; the next step would make all weights NaN."),
    FindingKind("moments-huge", 0.4, "the optimizer's moments are huge", "Clip gradients; resume with a fresh optimizer if the loss jumped."),
    FindingKind("learning-rate", 0.4, "the learning rate is out of range", "Check learning rate and schedule; a schedule that has ended early, or a unit that is wrong, is usual."),
    FindingKind("state-non-finite", 0.3, "the training log has NaN or infinite values", "Look in the journal or the log since which step; weights may be good still."),
    FindingKind("state-mismatch", 0.3, "the training state is of another step than the directory's name says", "Do not resume from it before you know which files belong together."),
    FindingKind("state-unreadable", 0.3, "a file of the training state cannot be read; weights are not affected", "The weights can be used, but training cannot be resumed exactly. " + _SAVE_AGAIN + "."),
    FindingKind("state-missing", 0.0, "a file of the training state is missing, so that training cannot be resumed exactly", "Set save_only_model to false if you want to resume."),
    # Against another checkpoint
    FindingKind("nothing-learned", 0.3, "all weights are those of the checkpoint before", "Check that parameters require gradients, that the learning rate is not zero, and that the trained model is the one being saved."),
    FindingKind("replaced-tensor", 0.75, "a tensor is another than in the checkpoint before, while the rest hardly changed", _GO_BACK + "; look for exchanged files, a failed gather, or a merge that mixed up layers."),
    FindingKind("replaced-weights", 0.75, "the weights have almost nothing in common with the checkpoint before", "Check that both are of the same run; else go back: weights were overwritten or have diverged."),
    FindingKind("large-drift", 0.4, "all weights moved much further than fine-tuning moves them between two checkpoints", "Look at KL, entropy and reward since the checkpoint before; if they broke, go back to it, lower the learning rate and clip gradients. Usual in pretraining alone."),
    FindingKind("tensors-changed", 0.3, "the two checkpoints differ in which tensors they have, or in their shapes", "Compare their configurations; one is of another architecture, or incomplete."),
)  # fmt: skip

FINDING_BY_NAME: Final[dict[str, FindingKind]] = {kind.name: kind for kind in FINDING_KINDS}
