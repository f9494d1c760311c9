"""What an experiment returns, and the row that it becomes."""

import json

from absl.testing import absltest, parameterized
from ml_collections import ConfigDict
import numpy as np

from labelleak.base import InputError
from labelleak.experiments import result
from labelleak.experiments.result import Result, Setting

_REQUIRED = dict(
  data='digits',
  model=dict(name='mlp.mlp'),
  num_classes=10,
  batch_size=64,
  trained=False,
)


def _row(**fields):
  contents = dict(
    attack=dict(name='counts.llbg', confidence=0.5),
    known=('lr', 'steps'),
    setting=Setting(**_REQUIRED),
    values=dict(count_accuracy=np.array([0.5, 1.0])),
  )
  return result.row(
    Result(**contents | fields),
    config_name='test',
    point={'batch_size': 64},
    seed=3,
    seconds=1.234,
  )


class SettingTest(parameterized.TestCase):
  @parameterized.parameters(*_REQUIRED)
  def test_a_missing_field_fails_where_it_is_written(self, field):
    given = {k: v for k, v in _REQUIRED.items() if k != field}
    with self.assertRaisesRegex(TypeError, f"missing .*'{field}'"):
      Setting(**given)

  def test_nothing_else_is_required(self):
    setting = Setting(**_REQUIRED)
    self.assertEqual(setting.defense, ())
    self.assertEqual(setting.stands_for, {})
    self.assertEqual(setting.extra, {})

  @parameterized.parameters('attack', 'known', 'setting', 'values')
  def test_a_result_has_its_fields_too(self, field):
    given = dict(attack={}, known=(), setting=Setting(**_REQUIRED), values={})
    del given[field]
    with self.assertRaisesRegex(TypeError, f"missing .*'{field}'"):
      Result(**given)


class RowTest(parameterized.TestCase):
  def test_it_is_one_json_object_of_structures(self):
    model = ConfigDict(dict(name='mlp.mlp', width=8))
    noise = dict(name='gaussian', stddev=0.1, at='step')
    extra = dict(clients=2)
    setting = Setting(**_REQUIRED | dict(model=model))
    setting = setting._replace(defense=(noise,), extra=extra)
    row = _row(setting=setting, details=dict(matrix=[[1.0]]))
    self.assertEqual(row, json.loads(json.dumps(row)))
    self.assertEqual(row['attack'], dict(name='counts.llbg', confidence=0.5))
    self.assertEqual(row['known'], ['lr', 'steps'])
    self.assertEqual(
      row['setting'],
      _REQUIRED
      | dict(model=model.to_dict(), defense=[noise], stands_for={})
      | dict(extra=extra),
    )
    self.assertEqual(row['matrix'], [[1.0]])  # beside the other fields
    stated = dict(config='test', point={'batch_size': 64}, trials=2, seed=3)
    self.assertEqual(stated, {k: row[k] for k in stated})
    self.assertEqual(row['seconds'], 1.23)
    self.assertEqual(row['metrics']['count_accuracy']['mean'], 0.75)

  def test_arrays_stay_out_of_it(self):
    row = _row(arrays=dict(restored=np.zeros((2, 3))))
    self.assertNotIn('restored', row)

  def test_what_is_no_result_is_refused_in_one_line(self):
    facts = dict(config_name='test', point={}, seed=0, seconds=0.0)
    for wrong in (dict(attack='counts.llbg'), None):
      with self.assertRaisesRegex(InputError, 'must return Results') as caught:
        result.row(wrong, **facts)
      self.assertNotIn('\n', str(caught.exception))
    with self.assertRaisesRegex(InputError, 'Results with values'):
      _row(values={})


class SummaryTest(absltest.TestCase):
  def test_closed_form(self):
    out = result.summary(np.array([0.0, 1.0]))
    self.assertAlmostEqual(out['mean'], 0.5)
    self.assertAlmostEqual(out['std'], 0.5**0.5)  # n - 1, as papers report
    self.assertAlmostEqual(out['stderr'], 0.5)
    self.assertEqual(result.summary(np.ones(1))['stderr'], 0.0)


if __name__ == '__main__':
  absltest.main()
