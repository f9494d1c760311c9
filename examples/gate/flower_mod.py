"""A Flower client mod that sends no update which names its labels.

  app = ClientApp(mods=[label_gate])

Mods run around the client's app, the first one outermost: put `label_gate`
after the mods that add noise or clip, so that it sees what they leave.
"""

from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from labelleak import hfl
from labelleak.gate import Policy, gate

HEAD = 'fc'  # the layer's name in the state_dict
POLICY = Policy(
  client=hfl.Client(
    lr=0.01, batch_size=32, optimizer={'name': 'sgd', 'momentum': 0.9}
  ),
  examples=200,
)
REFUSED = 451  # an application's own code


def label_gate(
  message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
  """Replaces a reply that the policy forbids by an error that says why."""
  before = next(iter(message.content.array_records.values()), None)
  reply = call_next(message, context)
  if before is None or reply.has_error() or not reply.content.array_records:
    return reply
  after = next(iter(reply.content.array_records.values()))
  change = lambda name: before[name].numpy() - after[name].numpy()
  update = {
    'kernel': change(f'{HEAD}.weight').T,
    'bias': change(f'{HEAD}.bias'),
  }
  verdict = gate(update, POLICY)
  if verdict.allowed:
    return reply
  reason = ' '.join(verdict.reasons)
  return Message(Error(code=REFUSED, reason=reason), reply_to=message)
