"""An NVFlare filter that sends no update which names its labels.

Add it to `task_result_filters` of the client, after filters that add noise or
clip. It reads a WEIGHT_DIFF, the client's model minus the server's.
"""

from nvflare.apis.dxo import DataKind
from nvflare.apis.dxo_filter import DXOFilter

from labelleak import hfl
from labelleak.gate import Policy, gate


class LabelGate(DXOFilter):
  """Stops a task result that the policy forbids.

  Args:
    head: name of the layer in the state_dict.
    lr, batch_size, momentum, examples: how the client trains.
    max_advantage: of `labelleak.gate.Policy`.
  """

  def __init__(
    self,
    head: str,
    lr: float,
    batch_size: int,
    examples: int,
    momentum: float = 0.0,
    max_advantage: float = 0.5,
  ):
    kinds = [DataKind.WEIGHT_DIFF]
    super().__init__(supported_data_kinds=kinds, data_kinds_to_filter=kinds)
    optimizer = {'name': 'sgd', 'momentum': momentum}
    client = hfl.Client(lr=lr, batch_size=batch_size, optimizer=optimizer)
    self._head = head
    self._policy = Policy(client, examples, max_advantage)

  def process_dxo(self, dxo, shareable, fl_ctx):
    """Returns None, which leaves the result as it is.

    Raises:
      RuntimeError: the policy forbids it; NVFlare then sends
        TASK_RESULT_FILTER_ERROR in place of the result.
    """
    update = {
      'kernel': -dxo.data[f'{self._head}.weight'].T,
      'bias': -dxo.data[f'{self._head}.bias'],
    }
    verdict = gate(update, self._policy)
    if not verdict.allowed:
      raise RuntimeError(' '.join(verdict.reasons))
