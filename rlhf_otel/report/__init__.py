"""Reports: what happened in a run, for someone who did not run it, as HTML, Markdown and JSON.

    from rlhf_otel import report
    report.write([report.read("output_dir")], "report.html")

HTML needs the extra ``[report]``; torch is never needed.
"""

from __future__ import annotations

from rlhf_otel.report.reading import read
from rlhf_otel.report.story import Story
from rlhf_otel.report.writing import FORMATS, text_of, write

__all__ = ["FORMATS", "Story", "read", "text_of", "write"]
