"""Exploiting inferred labels: Appendix E of Fu et al., 100 seeds.

Two parties learn a diagnosis; the passive one infers it for all rows, and with
it a feature that nobody shared: mean area, above or below its median. Columns
are dealt as in the released code. Unlike there, known rows are drawn from both
classes alike, training rows alone are scored, standardised and split at the
median, and each trial is its own control.
"""

from configs import common, completion, datasets

HEAD = (dict(table='Fu Appendix E', minutes=8),)
_ATTACKER = (1, 4, 5, 6, 7, 8, 9, *range(10, 17))
_OTHER = (*range(17, 30), 0)
_AREA = 3


def get_config(arg=None):
  arg = common.parse_arg(arg)
  config = common.completion('appendix_e')
  config.experiment = 'vfl.property_inference'
  datasets.use(config, 'breast_cancer')
  config.split = dict(name='splits.assignment', columns=(_ATTACKER, _OTHER))
  config.model = dict(name='mlp.fcnn', widths=(20, 20), batch_norm=True)
  config.top = dict(name='mlp.bn_mlp', widths=(4,))
  config.optimizer.lr = 0.01
  common.train(config, batch_size=16, epochs=30)
  config.aux.per_class = 20
  # The published ramp ends where a frozen bottom's head collapses to a class;
  # a tenth of its weight does not.
  config.attacks = (
    dict(name='completion.passive', epochs=10),
    dict(name='completion.passive', epochs=10, weight=5.0),
  )
  config.exploit = dict(
    column=_AREA,
    per_class=20,
    lr=2e-3,
    momentum=0.9,
    epochs=100,
    batch_size=16,
  )
  config.trials = 100
  if arg['runlocal']:
    common.shrink(
      config,
      trials=3,
      files=True,
      training=dict(batch_size=16, epochs=1),
      attacks=(dict(name='completion.passive', **completion.QUICK),),
    )
  return config
