"""The shape of the code does not slip, and what measures it can tell."""

import ast

from absl.testing import absltest, parameterized

from tests.repository import house, trees, words

# What each measure may be at worst. A commit that improves one lowers its bound
# (raises it, of docstrings), until all of them are the goals.
BOUNDS = {  # name: bound, at most but for docstrings
  'functions that take config': 5,  # beside the entries of experiments
  'bare Callable': 0,
  'needless splats': 0,
  'functions named by a participle, %': 0.9,
  'docstrings that begin with a verb, %': 60.1,
  'lines of the report': 1900,
}


class HouseTest(absltest.TestCase):
  def test_keeps_its_bounds(self):
    measures = {m.name: m for m in house.measures() if m.goal is not None}
    self.assertEqual(set(measures), set(BOUNDS))
    for name, bound in BOUNDS.items():
      with self.subTest(name):
        now = measures[name].now
        worse = now < bound if measures[name].floor else now > bound
        command = f'python -m tests.repository.house "{name}"'
        self.assertFalse(worse, f'{now}, bound {bound}; {command} says where')


class TreesTest(parameterized.TestCase):
  @parameterized.parameters(
    ('def f(config): ...', 1),
    ('def f(*, config): ...', 1),
    ('def f(key, config, /): ...', 1),
    ('def f(config):\n  def g(config): ...\n  def h(key): ...', 2),
    ('class A:\n  def f(self, config): ...', 1),
    ('f = lambda config: config', 1),
    ('def f(configs, key=config): ...\ng(config)', 0),
  )
  def test_finds_config(self, text, count):
    self.assertEqual(len(trees.find_config(ast.parse(text))), count)

  @parameterized.parameters(
    ('def f(apply: Callable) -> Callable: ...', 2),
    ('def f(apply: Optional[Callable] = None): ...', 1),
    ('def f(*a: Callable, b: Callable | None, **c: Callable): ...', 3),
    ('def f() -> tuple[dict, Callable]: ...', 1),
    ('class A(NamedTuple):\n  apply: Callable', 1),
    ('class A:\n  apply: collections.abc.Callable = field()', 1),
    ('def f(apply: Callable[..., Any]): ...', 1),
    ('Split = Callable', 1),
    ('def f(apply: Callable[[Callable], int]): ...', 1),
    ('def f(apply: Callable[[int], int]): ...', 0),
    ('def f(apply: Optional[Callable[[int], Any]]): ...', 0),
    ('def f(apply: abc.Callable[..., int]): ...', 0),
    ('from collections.abc import Callable', 0),
  )
  def test_finds_bare_callables(self, text, count):
    self.assertEqual(len(trees.find_bare(ast.parse(text))), count)

  @parameterized.parameters(
    ('a = x, y\n  g(*a)', 1),  # packed for that alone
    ('a = (x, y)\n  h = lambda: g(1, *a)\n  return a', 0),
    ('a = x, y\n  g(*a)\n  g(*a, 1)', 2),
    ('a = x, y\n  g(*a)\n  return a[0]', 0),
    ('a = x, y\n  def inner():\n    g(*a)', 1),
    ('g(*(x, y))', 1),
    ('a.b = x, y\n  g(*a)', 0),
    ('a, b = x, y\n  g(*a)', 0),
    ('a = g(x)\n  zip(*a)', 0),
    ('a = g(x)\n  fixed(*a)', 1),  # blind
    ('module.fixed(1, *g(x))', 1),
    ('Point(*a[0])', 1),
    ('variadic(*a)', 0),
    ('fixed(*map(g, a))', 0),
    ('fixed(*(g(x) for x in a))', 0),
    ('jax.vmap(lambda *a: fixed(*a))', 0),
    ('[*a, *b]\n  fixed(**a)', 0),
  )
  def test_finds_splats(self, body, count):
    fixed = trees.fixed_parameters(
      ast.parse(text)
      for text in (
        'def fixed(x, y): ...\nclass Point(NamedTuple):\n  x: int',
        'def variadic(*a): ...',
        'def both(*a): ...\nclass A:\n  def both(self): ...',
      )
    )
    self.assertEqual(fixed, {'fixed', 'Point'})
    tree = ast.parse(f'def f(x, y):\n  {body}')
    self.assertEqual(len(trees.find_splats(tree, fixed)), count)

  def test_names_locals(self):
    text = """
def f(x, *, key):
  a, (b, *c) = x
  d.e = [g for g in a]
  with b as h:
    h += 1
  def inner(y):
    z = y
  for i in c: (j := i)
"""
    outer, inner = trees.functions(ast.parse(text))
    self.assertEqual(trees.local_names(outer), set('abcghij'))
    self.assertEqual(trees.local_names(inner), {'z'})


class WordsTest(parameterized.TestCase):
  @parameterized.parameters('taken', '_heard', 'fused', 'written', 'known')
  def test_finds_participles(self, name):
    self.assertTrue(words.is_participle(name))

  @parameterized.parameters(
    'embed', 'seed', '_open', 'cut', 'token', 'take', 'mark_taken', '__len__'
  )
  def test_leaves_other_names(self, name):
    self.assertFalse(words.is_participle(name))

  @parameterized.parameters(
    'Draws rows [B] of a pool.',
    'Draw rows [B] of a pool.',
    'Applies `tx`.',
    'Guesses every label.',
    'Scores the rows.',
    'Counts\neach class.',
  )
  def test_finds_verbs(self, text):
    self.assertTrue(words.begins_with_verb(text))

  @parameterized.parameters(
    'Rows [B] of a pool.',
    'Metrics of each attack.',
    'Scores [B, K] of rows.',
    'Counts of the tokens.',
    'Score of the rows.',
    'Class the rows belong to.',
    'The rows drawn.',
    'draw(key) -> rows',
    '',
  )
  def test_leaves_other_docstrings(self, text):
    self.assertFalse(words.begins_with_verb(text))


if __name__ == '__main__':
  absltest.main()
