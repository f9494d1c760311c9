"""What CoAE's encoders make of a label: those shipped, and a recipe for them.

The BLI paper ships weights, no training. `shipped` measures them; `recipe` is
what training by the loss read from them gives (full batch, Adam at 1e-3), as
worked out in our reference before this code. The true class's mass, the entropy
in nats and the largest mass are means over classes.
"""

from labelleak.report.published import named
from labelleak.report.published.cells import Cell, Table

# K, lambda2, reconstruction, true mass, entropy, largest mass, distinct argmax
_SHIPPED = (
  (2, 0.0, 1, 4.2e-5, 0.000, 1.000, 2),
  (2, 0.1, 1, 8.1e-5, 0.001, 1.000, 2),
  (2, 0.5, 1, 4.9e-3, 0.031, 0.995, 2),
  (2, 1.0, 1, 5.9e-2, 0.223, 0.941, 2),
  (5, 0.0, 1, 1.2e-5, 0.007, 0.999, 5),
  (5, 0.05, 1, 7.1e-5, 0.152, 0.906, 4),
  (5, 0.1, 1, 1.1e-5, 0.008, 0.999, 5),
  (5, 0.5, 1, 6.1e-4, 1.282, 0.435, 4),
  (5, 1.0, 1, 1.7e-3, 1.369, 0.334, 4),
  (5, 2.0, 1, 1.5e-2, 1.443, 0.267, 4),
  (10, 0.0, 1, 6.8e-8, 0.001, 1.000, 10),
  (10, 0.1, 1, 1.4e-6, 0.047, 0.987, 10),
  (10, 0.5, 1, 2.3e-6, 2.171, 0.169, 9),
  (10, 1.0, 1, 3.9e-5, 2.191, 0.138, 8),
  (10, 2.0, 1, 4.4e-4, 2.199, 0.120, 4),
)
_RECIPE = (
  (2, 0.0, 1, 7.5e-5, 0.001, 1.000),
  (2, 0.5, 1, 2.9e-3, 0.020, 0.997),
  (2, 1.0, 1, 5.5e-2, 0.214, 0.945),
  (5, 1.0, 1, 1.3e-3, 1.395, 0.251),
  (10, 0.5, 1, 8.4e-6, 2.196, 0.129),
  (10, 1.0, 1, 2.2e-5, 2.197, 0.122),
  (10, 2.0, 1, 6.7e-4, 2.201, 0.116),
)
# column -> metric of a row
_COLUMNS = {
  'reconstruction': 'reconstruction_accuracy',
  'true mass': 'true_mass',
  'entropy': 'entropy',
  'largest': 'max_mass',
  'distinct': 'distinct',
}


def _table(title, source, lines):
  cells = {}
  for num_classes, confusion, *values in lines:
    setting = dict(num_classes=num_classes, code=named.coae(confusion))
    for (column, metric), value in zip(_COLUMNS.items(), values):
      cells[f'K={num_classes}, lambda2={confusion:g}', column] = Cell(
        source, setting, None, {}, metric, value, None
      )
  return Table(f'CoAE {title}', cells, ())


TABLES = (
  _table('encoders as shipped', 'coae shipped', _SHIPPED),
  _table('encoders by the recipe of the reference', 'coae recipe', _RECIPE),
)
