"""`recmind init`: any files → what they are, and a config; or the one question that is left."""

from recmind_dist.ingest.guess.init import Answers, Unclear, init_config

__all__ = ["Answers", "Unclear", "init_config"]
