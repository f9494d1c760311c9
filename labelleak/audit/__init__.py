"""Audits a captured update: which labels it gives away, and what would help.

  labelleak audit --before server.npz --after client.npz --examples 200 --lr .01

`horizontal.assess` makes an `Assessment` of a capture and a `Setting`, plain
data. `summary` shows it in a terminal, `page` as HTML, and `assessment.to_json`
as JSON, whose schema is in docs/guides/audit_horizontal.md.

  labelleak audit-vertical --log passive.npz --classes 10

`vertical.assess` makes a `VerticalAssessment` of a passive party's log, which
the same modules show (docs/guides/audit_vertical.md).
"""

from labelleak.audit.assessment import Assessment
from labelleak.audit.horizontal import assess
from labelleak.audit.readings import Setting

__all__ = ['Assessment', 'Setting', 'assess']
