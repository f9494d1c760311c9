"""Which names are participles, and which docstrings begin with a verb.

Word lists, for want of a grammar. Where a docstring begins with a verb that is
missing here, it belongs here.
"""

import re


def _words(text: str) -> frozenset[str]:
  return frozenset(text.split())


FILLER = _words(
  'found own each mine most kept less told shown seen rest wanted named'
)
# Participles in neither -ed nor -en; not those that are verbs too (cut, read).
_PARTICIPLES = _words(
  """bent blown born borne bought brought built caught dealt done drawn felt
  found gone grown heard held hung kept known laid left lent lost made meant
  met paid said sent shot shown slept sold sought spent struck stuck swept
  taught thought thrown told torn won worn"""
)
_NO_PARTICIPLES = _words(
  """bleed breed children embed even exceed feed flatten gen golden happen
  harden heed len lighten listen need open proceed red screen seed sharpen shed
  shorten shred soften speed strengthen succeed ten then tighten token weed
  when whiten widen"""
)
_VERBS = _words(
  """accept accumulate add adjust aggregate align allocate allow append apply
  arrange ask assemble assert assign attach bind bring broadcast build
  calculate calibrate check choose clear clip collect combine compare compile
  complete compute concatenate connect construct convert convolve create decode
  decrypt define delete derive describe detect determine differentiate discard
  divide download draw drop embed encode encrypt enforce ensure enumerate
  evaluate exclude execute expand explain express extend fetch fill find finish
  flatten flip forget gather generate get give guarantee have hide hold ignore
  implement include infer initialise initialize insert integrate interleave
  invert iterate join keep learn let load lower make marginalise maximise
  maximize merge minimise minimize modify move multiply normalise normalize
  observe obtain open optimise optimize pad parse pass perform permute pick
  predict prepare prevent print produce project propagate prove provide prune
  put quantise quantize raise read rebuild receive recompute reconstruct
  recover refuse register reject remove rename repeat replace replay require
  rescale reshape resolve restore restrict retrieve return reveal rewrite save
  say see select send serialise serialize show shrink shuffle simulate skip
  solve sort specify strip subtract summarise summarize swap take tamper tell
  train treat try undo unmask unpack unwrap upload validate verify wrap write
  yield"""
)
# Verbs whose form in -s may be a plural, or whose stem a noun.
_NOUNS_TOO = _words(
  """answer attack average balance block blur bound break call cap cast change
  code condition copy count cut cycle decrease delay estimate extract fit fold
  format frame grant group guess import increase index label limit link list
  log look map mark mask match mean measure mix model name noise number order
  pair perturb place plan plot point pool process pull query rank record reduce
  release report reverse round run sample scale scan score seal seed set shape
  shard share sign split spread stack start step stop store stream study sum
  sweep test time trace track transform transpose turn update use wait walk
  weight zero"""
)
_AFTER_VERBS = _words(
  """` a all an any both each every how it its no one only out the their them
  to two up what where whether which"""
)


def is_participle(name: str) -> bool:
  """Tells whether a function's name is a participle and nothing more."""
  word = name.strip('_')
  if '_' in word or word in _NO_PARTICIPLES:
    return False
  return word in _PARTICIPLES or word.endswith(('ed', 'en'))


def begins_with_verb(docstring: str) -> bool:
  """Tells whether a docstring begins like 'Draws rows' or 'Draw rows'.

  'Scores the rows' does, 'Scores [B, K]' does not: where a word may be a noun,
  the next one decides, in doubt for the noun.
  """
  first, second, *_ = [*re.findall(r'[\w-]+|\S', docstring.lower()), '', '']
  stems = {first}
  if first.endswith('s'):
    stems |= {first[:-1], first[:-2], first[:-3] + 'y'}
  if stems & _VERBS:
    return second != '('  # which would be a formula
  return bool(stems & _NOUNS_TOO) and second in _AFTER_VERBS
