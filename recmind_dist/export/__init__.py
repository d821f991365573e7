"""What others use of a finished run: the recommender."""

from recmind_dist.export.recommender import Recommendation, Recommender, load

__all__ = ["Recommendation", "Recommender", "load"]
