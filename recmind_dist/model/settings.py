"""Settings of the model and its objective. The variants of the papers are settings of this one
model.
"""

from typing import Literal

from pydantic import Field

from recmind_dist.config import Settings

INIT_SCALE = 0.1
"""Root mean square of an entry of E⁰ at the start."""


class GateSettings(Settings):
    """The gate inside every layer: γ is the weight of the graph, 1 − γ that of language."""

    enabled: bool = True
    sides: Literal["both", "items"] = "both"
    """items: users keep γ = 1."""
    degree_input: bool = True
    """Whether the gate sees d̃ = log(1 + degree) / log(1 + max degree)."""
    initial_bias: float = 0.0
    """0 starts every gate at γ = 1/2."""
    learn_on: Literal["heldout", "train"] = "heldout"
    """heldout: the gates' gradient comes only from held-out training edges; train: the paper's
    literal form.
    """
    heldout_share: float = Field(0.1, gt=0, le=1)
    """Share of the users whose newest training edge teaches the gates."""
    learning_rate: float | None = Field(None, gt=0)
    """Of gates and mix; none: zero.learning_rate."""
    batch_size: int = Field(0, ge=0)
    """Held-out pairs of a global step; 0: a quarter of train.batch_size."""
    withheld_items: float = Field(0.0, ge=0, lt=1)
    """Share of the items that keep only 0..3 training edges while gates learn: the others teach the
    gates what an item
    without edges is. Needs sampler.propagation: full."""
    tail_exponent: float = Field(0.0, ge=0, le=1)
    """Held-out pairs weigh (degree of the item + 1)^-q: moves the balance between head and tail."""


class FallbackSettings(Settings):
    """The small network that stands in where a node has no text."""

    hidden_dim: int = Field(64, ge=1)
    category_buckets: int = Field(64, ge=0)
    """Hash buckets of the category field; 0: no category input."""
    category_field: str | None = None
    """Field of the item file that holds the category."""
    hide_share: float = Field(0.1, ge=0, lt=1)
    """Share of the nodes with text that are treated as if they had none, so that the network
    learns.
    """


class ModelSettings(Settings):
    """The gated LightGCN."""

    embedding_dim: int = Field(64, ge=1)
    num_layers: int = Field(2, ge=0, le=8)
    use_text: bool = True
    """False: no language anywhere (plain LightGCN)."""
    readout: Literal["fused", "alpha", "mix", "concat", "graph", "text"] = "fused"
    """What the final vector is: see docs/model.md."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the graph view where readout is alpha."""
    init: Literal["text", "text_neighbours", "normal"] = "text"
    """E⁰ from the whitened, PCA-reduced text vectors, or normal; text_neighbours: a node without
    text starts from the mean
    text of its neighbours."""
    base: Literal["table", "text"] = "table"
    """What propagation starts from: a row of the table, or the text view alone (AlphaRec,
    arXiv:2407.05441).
    """
    projection_hidden_dim: int = Field(0, ge=0)
    """0: the text view is linear in the text vector; above: a hidden layer of that width."""
    text_layers: int = Field(0, ge=0, le=8)
    """Hops over which text views are propagated too, at most num_layers: mean of all their states
    (AlphaRec).
    """
    users_have_text: bool = True
    """False: users' text views start from nothing, and come from their items through text_layers.
    """
    content_view: bool = False
    """Under readout: mix, a third view: whitened text vectors as they are, of users the mean of
    their items'.
    """
    recent_decay: float = Field(0.0, ge=0, le=1)
    """Under readout: mix, users' views are joined by means of their items' views in which an item
    weighs so much against the
    next newer one; 0: they are not."""
    text_whitening: Literal["none", "whiten"] = "whiten"
    """none: the text vectors as they are, to one common scale."""
    text_components: int = Field(0, ge=0)
    """Principal components kept of the text vectors; 0: all. Fewer cost less in every step."""
    gate: GateSettings = GateSettings()
    fallback: FallbackSettings = FallbackSettings()


class ContrastSettings(Settings):
    """Self-supervision of the graph view by noise, for the baseline XSimGCL."""

    kind: Literal["none", "xsimgcl"] = "none"
    """xsimgcl: mean and `layer`-th state of one noisy view (arXiv:2209.02544)."""
    weight: float = Field(0.2, ge=0)
    temperature: float = Field(0.2, gt=0)
    noise: float = Field(0.1, ge=0)
    """Length of the noise added to each state that a hop gives."""
    layer: int = Field(1, ge=0)
    """State that xsimgcl compares with the mean of all."""
    max_nodes: int = Field(0, ge=0)
    """Users and items of a global batch that are contrasted, drawn where there are more; 0: all, at
    the cost of their square.
    """


class LossSettings(Settings):
    """What is minimised beside the alignment."""

    kind: Literal["bpr", "ssm"] = "bpr"
    """bpr: Bayesian personalised ranking; ssm: sampled softmax on cosine / temperature."""
    temperature: float = Field(0.1, gt=0)
    """Of the sampled softmax."""
    user_exponent: float = Field(0.0, ge=0, le=1)
    """Pairs weigh (degree of the user + 1)^-q: 1 counts users alike, as the metrics do, 0 pairs."""
    contrast: ContrastSettings = ContrastSettings()
    regularization: float = Field(1e-4, ge=0)
    """L2 on the base rows that a batch touches, the gates and the adapters."""


class AlignmentSettings(Settings):
    """Symmetric InfoNCE between the graph view and the text view, users and items apart."""

    weight: float = Field(0.1, ge=0)
    users: bool = True
    items: bool = True
    temperature: float = Field(0.2, gt=0)
    hardness: float = Field(0.0, ge=0)
    """In-batch negatives weigh exp(hardness × similarity), mean 1; 0: all alike."""
    anchors: int = Field(512, ge=1)
    """Pairs of the global batch that are aligned each step."""
    queue_size: int = Field(4096, ge=0)
    """Keys kept of each kind; 0: the batch alone."""
    momentum: float = Field(0.99, ge=0, lt=1)
    """Of the copies of projection and gates that make the keys."""
