"""Settings of the models and of what they minimise: one class a model, told apart by `kind`."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from recmind_dist.config import Settings

FOLLOWS = -1.0
"""Marks a number that follows from the data (run_config/defaults.py), where 0 has a meaning."""


class GateSettings(Settings):
    """What gates learn from, the same for gates inside the layers and for gates at the end."""

    degree_input: bool = True
    """Whether the gate sees d̃ = log(1 + degree) / log(1 + max degree)."""
    learn_on: Literal["heldout", "train"] = "heldout"
    """heldout: gates learn from held-out training edges only; train: the paper's literal form."""
    heldout_share: float = Field(0.0, ge=0, le=1)
    """Share of the users whose newest training edge is held out for the gates; 0: follows from the
    number of users."""
    learning_rate: float | None = Field(5e-2, gt=0)
    """Of the gates; null: zero.learning_rate."""
    batch_size: int = Field(0, ge=0)
    """Held-out pairs of a global step; 0: follows from their number."""
    withheld_items: float = Field(0.0, ge=0, lt=1)
    """Share of the items that keep 0..3 training edges, on average, while gates learn, so that
    gates meet items without edges."""
    tail_exponent: float = Field(0.0, ge=0, le=1)
    """Held-out pairs weigh (degree of the item + 1)^-q: moves the balance between head and tail."""


class LayerGateSettings(GateSettings):
    """The paper's gate inside every layer: γ is the weight of the graph, 1 − γ that of language."""

    sides: Literal["both", "items", "none"] = "both"
    """items: users keep γ = 1; none: no gates."""


class ModelSettings(Settings):
    """What every model has."""

    kind: str
    embedding_dim: int = Field(64, ge=1)
    """D, columns of the table and of every view."""
    init: Literal["text", "normal"] = "normal"
    """E⁰ from the whitened text vectors (of the neighbours where a node has none), or normal."""

    @property
    def has_text_view(self) -> bool:
        """Whether the model turns text vectors into a view of its own."""
        return False

    @property
    def reads_text(self) -> bool:
        """Whether text vectors are needed at all: for a view, or for E⁰ at the start."""
        return self.has_text_view or self.init == "text"

    @property
    def has_gates(self) -> bool:
        return False

    def faults(self, *, full: bool, loss_kind: str) -> list[str]:
        """What this model cannot be trained with, one sentence each.

        Args:
            full: whether propagation is full.
            loss_kind: of the ranking loss.
        """
        return []


class MFSettings(ModelSettings):
    """Matrix factorisation: the table alone. Source: arXiv:1205.2618."""

    kind: Literal["mf"] = "mf"

    @property
    def num_layers(self) -> int:
        return 0


class LightGCNSettings(ModelSettings):
    """LightGCN, with `init: text` a LightGCN that starts from texts. Source: arXiv:2002.02126."""

    kind: Literal["lightgcn"] = "lightgcn"
    num_layers: int = Field(2, ge=0, le=8)
    """L, hops of propagation."""


class ContrastSettings(Settings):
    """Self-supervision of the graph view by noise. Source: arXiv:2209.02544."""

    weight: float = Field(0.2, ge=0)
    max_nodes: int = Field(0, ge=0)
    """Users and items of a batch that are contrasted, drawn where there are more; 0: all."""


class XSimGCLSettings(ModelSettings):
    """LightGCN with noise in its states and a contrast of two of its layers."""

    kind: Literal["xsimgcl"] = "xsimgcl"
    num_layers: int = Field(2, ge=1, le=8)
    contrast: ContrastSettings = ContrastSettings()

    def faults(self, *, full: bool, loss_kind: str) -> list[str]:
        return [] if full else ["model.kind: xsimgcl needs sampler.propagation: full"]


MissingText = Literal["learnt", "network", "neighbours", "zeros"]


class TextModelSettings(ModelSettings):
    """What the models with a text view share."""

    num_layers: int = Field(2, ge=0, le=8)
    projection_hidden_dim: int = Field(256, ge=0)
    """0: the text view is linear in the text vector; above: a hidden layer of that width."""
    text_components: int | None = Field(0, ge=0)
    """Principal components kept of the text vectors, which are whitened; 0: all; null: the vectors
    as they are. Fewer cost less in every step."""
    missing_text: MissingText = "network"
    """What the text view makes of a node without text. network: a small network over its degree and
    its neighbours' mean text; neighbours: that mean, as if it were the node's own; zeros: the mean
    of all; learnt (recmind, its default): an item with interactions learns its vector where items
    have offsets, and the network serves the rest."""

    @property
    def has_text_view(self) -> bool:
        return True

    @property
    def missing_text_fault(self) -> list[str]:
        """Of the models whose items have no offsets."""
        learnt = self.missing_text == "learnt"
        return ["model.missing_text: learnt needs model.kind: recmind"] if learnt else []


class AlphaRecSettings(TextModelSettings):
    """Propagation that starts from the items' text views alone. Source: arXiv:2407.05441."""

    kind: Literal["alpharec"] = "alpharec"

    @property
    def users_have_text(self) -> bool:
        return False

    def faults(self, *, full: bool, loss_kind: str) -> list[str]:
        return self.missing_text_fault


class FusedSettings(TextModelSettings):
    """What the paper's model and RecMind share."""

    init: Literal["text", "normal"] = "text"
    text_layers: int = Field(2, ge=0, le=8)
    """Hops over which text views are propagated too, from items alone; at most num_layers, by
    default as many. 0: they are not, and users have texts of their own (text.user_template)."""

    @property
    def users_have_text(self) -> bool:
        return self.has_text_view and self.text_layers == 0

    @model_validator(mode="before")
    @classmethod
    def _as_many_text_layers(cls, values: Any) -> Any:
        if isinstance(values, dict) and "num_layers" in values and "text_layers" not in values:
            return {**values, "text_layers": values["num_layers"]}
        return values

    @property
    def text_layers_fault(self) -> list[str]:
        if self.text_layers <= self.num_layers:
            return []
        return [f"model.text_layers {self.text_layers} is above model.num_layers {self.num_layers}"]


class PaperSettings(FusedSettings):
    """Gates inside the layers, graph and text vectors in one space. Source: arXiv:2509.06286."""

    kind: Literal["paper"] = "paper"
    readout: Literal["fused", "alpha", "concat", "graph", "text"] = "fused"
    """fused: the mean of Ê⁰..Ê^L; alpha: (z^G + z) / 2; concat: both side by side; graph: z^G;
    text: z."""
    gate: LayerGateSettings = LayerGateSettings()

    @property
    def has_gates(self) -> bool:
        return self.gate.sides != "none"

    @property
    def reads_out_text(self) -> bool:
        """Whether a text has part in final vectors."""
        if self.readout == "graph":
            return self.has_gates and self.num_layers > 0
        return self.readout != "fused" or self.has_gates

    def faults(self, *, full: bool, loss_kind: str) -> list[str]:
        return self.text_layers_fault + self.missing_text_fault


class RecMindSettings(FusedSettings):
    """Views of graph and text, whose scores are mixed by gates at the end."""

    kind: Literal["recmind"] = "recmind"
    views: Literal["all", "graph+text", "graph"] = "all"
    """all: graph, text and content (whitened text vectors as they are, of users the mean of their
    items'); graph: with newest items and gates, and no text is read; so it is where the data have
    none."""
    item_offsets: bool | Literal["alone"] | None = None
    """Items' text vectors learn from the log before the model does, one offset an item
    (item_vectors/learn.py); alone: no text is read, and offsets stand by themselves; null: on up
    to half a million items, alone where the data have no texts."""
    missing_text: MissingText = "learnt"
    recent_decay: float = Field(FOLLOWS, ge=FOLLOWS, le=1)
    """Users' views are joined by means of their items' views in which an item weighs so much
    against the next newer one; 0: they are not; -1: 0.6 where the log has an order, else 0."""
    gate: GateSettings = GateSettings()

    @property
    def has_text_view(self) -> bool:
        return self.views != "graph"

    @property
    def reads_text(self) -> bool:
        return super().reads_text and self.item_offsets != "alone"

    @property
    def has_content_view(self) -> bool:
        return self.views == "all"

    @property
    def has_gates(self) -> bool:
        return True

    def faults(self, *, full: bool, loss_kind: str) -> list[str]:
        found = self.text_layers_fault
        if loss_kind != "ssm":
            found.append("model.kind: recmind needs loss.kind: ssm")
        if self.item_offsets == "alone" and (not self.has_text_view or self.users_have_text):
            found.append(
                "model.item_offsets: alone needs a text view that is propagated: leave model.views "
                "and model.text_layers out"
            )
        return found


MODELS: dict[str, type[ModelSettings]] = {
    "recmind": RecMindSettings,
    "paper": PaperSettings,
    "lightgcn": LightGCNSettings,
    "alpharec": AlphaRecSettings,
    "xsimgcl": XSimGCLSettings,
    "mf": MFSettings,
}
DEFAULT_KIND = "recmind"


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind", DEFAULT_KIND))
    return str(getattr(value, "kind", DEFAULT_KIND))


AnyModelSettings = Annotated[
    Annotated[RecMindSettings, Tag("recmind")]
    | Annotated[PaperSettings, Tag("paper")]
    | Annotated[LightGCNSettings, Tag("lightgcn")]
    | Annotated[AlphaRecSettings, Tag("alpharec")]
    | Annotated[XSimGCLSettings, Tag("xsimgcl")]
    | Annotated[MFSettings, Tag("mf")],
    Discriminator(_kind),
]


class LossSettings(Settings):
    """What is minimised beside the alignment."""

    kind: Literal["bpr", "ssm"] = "ssm"
    """bpr: Bayesian personalised ranking; ssm: sampled softmax on cosine / temperature."""
    temperature: float = Field(0.2, gt=0)
    """Of the sampled softmax."""
    user_exponent: float = Field(0.0, ge=0, le=1)
    """Pairs weigh (degree of the user + 1)^-q: 1 counts users alike, as the metrics do, 0 pairs."""
    regularization: float = Field(0.0, ge=0)
    """L2 on the base rows that a batch touches, gates inside the layers and the adapters."""


class AlignmentSettings(Settings):
    """Symmetric InfoNCE between the graph view and the text view, users and items apart."""

    weight: float = Field(0.0, ge=0)
    """0: views are not aligned."""
    sides: Literal["both", "users", "items"] = "both"
    hardness: float = Field(0.0, ge=0)
    """In-batch negatives weigh exp(hardness × similarity), mean 1; 0: all alike."""
    queue_size: int = Field(4096, ge=0)
    """Keys kept of each kind; 0: the batch alone."""
