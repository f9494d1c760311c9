"""What a published table consists of."""

from typing import NamedTuple, Optional


class Cell(NamedTuple):
  """One published number, a rate, with the setting it belongs to."""

  source: str  # 'llbg Table 1'
  setting: dict  # facts that a row's `setting` must equal
  attack: Optional[str]  # None: of the model, whatever attacked it
  attack_args: dict
  metric: str
  mean: float
  std: Optional[float]  # None where the paper gives none


class Table(NamedTuple):
  """Cells by row label and column label, in the printed order."""

  title: str
  cells: dict  # (row label, column label) -> Cell
  beside: (
    tuple  # attacks of ours on the same updates, the one that guesses last
  )
