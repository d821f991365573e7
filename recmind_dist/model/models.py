"""From settings to a model."""

from torch import nn

from recmind_dist.model.alpharec import AlphaRec
from recmind_dist.model.lightgcn import LightGCN
from recmind_dist.model.mf import MF
from recmind_dist.model.paper import PaperRecMind
from recmind_dist.model.recmind import RecMind
from recmind_dist.model.settings import (
    AlphaRecSettings,
    LightGCNSettings,
    MFSettings,
    ModelSettings,
    PaperSettings,
    RecMindSettings,
    XSimGCLSettings,
)
from recmind_dist.model.xsimgcl import XSimGCL

Model = RecMind | PaperRecMind | LightGCN | AlphaRec | XSimGCL | MF


def build_model(settings: ModelSettings, text_dim: int = 0) -> Model:
    """The model that `model.kind` names, without a table: its rows are handed to `forward`.

    Args:
        text_dim: T, width of the text vectors; read by models with a text view.
    """
    match settings:
        case RecMindSettings():
            return RecMind(settings, text_dim)
        case PaperSettings():
            return PaperRecMind(settings, text_dim)
        case AlphaRecSettings():
            return AlphaRec(settings, text_dim)
        case XSimGCLSettings():
            return XSimGCL(settings.embedding_dim, settings.num_layers)
        case LightGCNSettings():
            return LightGCN(None, settings.embedding_dim, settings.num_layers)
        case MFSettings():
            return MF(settings.embedding_dim)
    raise AssertionError(f"no model of kind {settings.kind}")


def gate_parameters(model: Model) -> list[nn.Parameter]:
    """The parameters that are gates."""
    if isinstance(model, RecMind):
        return list(model.mix.parameters())
    return list(model.gates.parameters()) if isinstance(model, PaperRecMind) else []


def acts_between_hops(model: Model) -> bool:
    """Whether the model changes a state between two hops, so that layers go one by one: the same on
    every rank.
    """
    return isinstance(model, XSimGCL) or (isinstance(model, PaperRecMind) and len(model.gates) > 0)
