"""Messages of a federated round that an engineer captured, into one type.

  capture = messages.read('server.npz', 'client.npz', num_classes=10)
  capture.update['bias'], capture.notes

Files: NumPy's .npz of named tensors or of Flower's lists (`names=` then tells
which is which), .safetensors, sharded or not (its .index.json), and Flower's
records, .flwr or .pb:

  proto = flwr.common.serde.recorddict_to_proto(message.content)
  pathlib.Path('client.flwr').write_bytes(proto.SerializeToString())

NVFlare's DXO holds a dict of arrays: np.savez('client.npz', **dxo.data), read
with update= and, where it is a WEIGHT_DIFF, sign='client-server'. Nothing
pickled is read. What is doubtful is refused in one line, or said in `notes`.

Of vertical FL `read_log` reads what a passive party logged (`logs`), and
`bottoms` makes of the parameters in it a bottom model that can be run.
"""

from labelleak.messages.captures import Capture, read
from labelleak.messages.logs import Log, Step, read_log
from labelleak.messages.rounds import read_many

__all__ = ['Capture', 'Log', 'Step', 'read', 'read_log', 'read_many']
