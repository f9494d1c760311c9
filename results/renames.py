"""Names of today for specs of old, by any dict with a name."""
import copy, re
SPECS = {
 'labelleak.coae.fitted':'coae','labelleak.coae.renamed':'derangement','bottleneck.mid':'mid',
 'clear':'plaintext','sealed':'ideal',
 'embedded.digits':'digits','embedded.breast_cancer':'breast_cancer','synthetic.images':'synthetic',
 'hashed.criteo':'criteo','folders.cinic10':'cinic10','folders.tiny_imagenet':'tiny_imagenet','tables.nus_wide':'nus_wide',
 'text.yahoo_answers':'yahoo_answers','patches.breast_histopathology':'breast_histopathology','prepared.images':'tfds.images',
 'vertical.rows':'splits.rows','vertical.columns':'splits.columns','vertical.quarters':'splits.quarters','vertical.features':'splits.features',
 'vertical.patches':'splits.patches','vertical.shuffled':'splits.random_features','vertical.chosen':'splits.assignment',
 'cut.bottom':'depth.bottom','cut.rest':'depth.remainder','cut.chain':'depth.chain',
 'replacement.backdoor':'backdoor.backdoor','replacement.relabel':'backdoor.relabel',
 'texts.passive':'completion.texts.passive','texts.active':'completion.texts.active','texts.released':'completion.texts.released',
 'malicious.sgd':'completion.malicious.sgd','malicious.adam':'completion.malicious.adam',
}
EXPERIMENTS = {'hfl':'hfl.label_counts','vfl':'vfl.batch_inference','replacement':'vfl.backdoor','completion':'vfl.model_completion','explain':'vfl.attribution','tradeoff':'vfl.privacy_utility','training':'vfl.training','exploit':'vfl.property_inference','codes':'vfl.label_codes','reconstruction':'hfl.reconstruction'}
DEFENDS = ('step_defense','code','penalty','top','defense')
PROVENANCE = {}
def names(v):
  if isinstance(v, dict): return {k: (SPECS.get(x, x) if k == 'name' and isinstance(x, str) else names(x)) for k, x in v.items()}
  if isinstance(v, list): return [names(x) for x in v]
  return v
def known(fields):
  fields = list(fields)
  out = []
  for k in fields:
    if k == 'step': continue
    if k in ('x','y'): k = 'labels' if ('x' not in fields) else ('labelled' if 'y' in fields else 'unlabelled')
    k = {'apply':'model'}.get(k, k)
    if k not in out: out.append(k)
  return out
def is_mid(top): return bool(top) and top['name'] in ('bottleneck.mid',)
def chain(c):
  out = list(c.get('code') or [])
  if c.get('penalty'): out.append(c['penalty'])
  if is_mid(c.get('top')): out.append(c['top'])
  out += [dict(s, at='step') for s in c.get('step_defense') or []]
  return out + list(c.get('defense') or [])
def fold(values, base):
  """{path: value} of a sweep's choice, its defenses in one field."""
  own = {k: v for k, v in values.items() if k in DEFENDS}
  if not own: return values
  full = {k: base.get(k) for k in DEFENDS} | own
  out = {k: v for k, v in values.items() if k not in DEFENDS}
  if 'top' in own and any_real_top(base): out['top'] = None if is_mid(own['top']) else own['top']
  return dict(defense=chain(full), **out)
_real = {}
def any_real_top(base): return _real.get(id(base), False)
def attack(s):
  s = dict(s)
  if 'known' in s: s['known'] = known(s['known'])
  if s.get('name','').startswith('reconstruction.') and s.get('labels') == 'granted': s['known'] = known(s.get('known', [])) if 'known' in s else s.get('known')
  return {k: v for k, v in s.items() if v is not None or k != 'known'}
def value(path, v):
  if path == 'attacks': return [attack(s) for s in v]
  if path == 'known': return known(v)
  if path == 'experiment': return EXPERIMENTS.get(v, v)
  return v
def point(p, base):
  out = {k: value(k, v) for k, v in fold(p, base).items()}
  return names(out)
def config(c):
  c = copy.deepcopy(c); base = c
  sweep = []
  for path, values in c.get('sweep', []):
    paths = [path] if isinstance(path, str) else list(path)
    rows = [[v] for v in values] if isinstance(path, str) else values
    _real[id(base)] = any('top' in paths and r[paths.index('top')] and not is_mid(r[paths.index('top')]) for r in rows)
    folded = [point(dict(zip(paths, r)), base) for r in rows]
    keys = list(folded[0])
    if len(keys) == 1: sweep.append([keys[0], [f[keys[0]] for f in folded]])
    else: sweep.append([keys, [[f[k] for k in keys] for f in folded]])
  out = {k: value(k, v) for k, v in c.items() if k not in ('sweep','step_defense','code','penalty','defense')}
  out['defense'] = chain(c)
  if is_mid(c.get('top')): out['top'] = None
  out['sweep'] = sweep
  if 'poison' in out and out['poison'].get('inference'): out['poison']['inference'] = attack(out['poison']['inference'])
  return names(out)
def apply(row, full, base):
  for path, values in base.get('sweep', []):
    paths = [path] if isinstance(path, str) else list(path)
    rows = [[v] for v in values] if isinstance(path, str) else values
    _real[id(base)] = any('top' in paths and r[paths.index('top')] and not is_mid(r[paths.index('top')]) for r in rows)
  row = dict(row, point=point(row['point'], base))
  head = {k: row[k] for k in ('attack','setting')}
  row.update(names(head))
  return row
_OLD = 'calibrated replays the local steps a fixed number of times, {} (before 3e64ae3)'
PROVENANCE.update({
 'llbg_cifar_table3': 'two runs: B=1024 by 800b325, the others by 4318a77, before the total of the counts was found in a bracket; the later calibrated changed no metric in the first twelve trials of B=128',
 'llbg_cifar_table4': 'the config with fewer models; the later calibrated changed no metric in the first twelve trials of VGG19',
 'llbg_cifar_table8': 'the later calibrated changed no metric in the first twelve trials',
 'llbg_imagenet_64px': 'the config with fewer models; the later calibrated changed no metric in the first eight trials of EfficientNet',
 'llbg_cifar_tanh_inits': 'the config without calibrated',
 'llbg_cifar_resnet': "the config with --config.sweep=((('model',({'name': 'resnet.resnet32_10'},)),)) and without calibrated, in three processes (trials 0 to 77, 78 to 97, 98 and 99) at commits between which only reports changed; a debugger read the trials of the first two, launch.py wrote the rows from all values, seconds is the sum of the three; the command has not been run as one",
 'llbg_cifar_resnet_21': 'as llbg_cifar_resnet, with calibrated, seed 21; ' + _OLD.format('three'),
 'llbg_cifar_resnet_22': 'as llbg_cifar_resnet, with calibrated, seed 22, 16 trials',
 'llbg_cifar_resnet_tuned': 'as llbg_cifar_resnet, with calibrated, seed 0, on which it was tuned, 16 trials',
 'llbg_cifar_resnet_before': 'llbg_cifar_resnet_tuned by the code of d03b1fb, before calibrated doubted its path',
 'llbg_defenses_granted': 'configs/llbg_defenses.py:granted, seed 20; the later calibrated changed no metric in the first six trials',
 'llbg_trained_cifar10': 'by data; ' + _OLD.format('three'),
 'llbg_trained_digits': 'by data; dirty: the older rows had been deleted in the checkout, no code was changed',
 'llbg_trained_mnist': 'by data; dirty: the older rows had been deleted in the checkout, no code was changed',
 'vfl_defenses_mnist': 'part=mnist without linear.full; the first 28 points in four processes, put together in the order of the sweep, between whose commits only the speed of distance correlation and what is printed while training changed; the last ten rows by a later commit',
 'vfl_defenses_dli': 'part=mnist untrained, first draw, direct inference alone',
 'vfl_defenses_released': 'a single point of part=mnist in another reading (docs/findings.md), direct inference alone',
 'vfl_defenses_active': 'a single point of part=mnist in another reading (docs/findings.md), direct inference alone',
 'vfl_defenses_draw': 'a single point of part=mnist in another reading (docs/findings.md), direct inference alone',
 'vfl_defenses_dropped': 'points of part=mnist in another reading (docs/findings.md), direct inference alone',
 'vfl_defenses_coarse': 'points of part=mnist in another reading (docs/findings.md), direct inference alone',
 'vfl_defenses_mid': 'a single point of part=mnist in another reading (docs/findings.md), direct inference alone',
 'vfl_defenses_seeds': 'two points of part=mnist over twenty other seeds in four groups of five, direct inference alone; the first two rows by an earlier commit, between which nothing that they use changed; its seconds were stopped at times',
 'vfl_defenses_shipped': 'part=shipped',
 'vfl_defenses_binary': 'part=binary, the sweep cut to thirteen points',
 'direct_defenses': 'run before the strict form of PPDL stood in the config',
 'direct_defenses_ppdl': "the four points of PPDL's strict form",
 'completion_cifar10_small': 'data=cifar10,small; seconds of shared cores',
 'completion_cifar10_small_hot': 'data=cifar10,small at its earlier joint rate of .1, 12.7 minutes on two cores that nobody else used',
 'completion_defenses_digits': 'the first four points by an earlier commit: Laplace noise of .1 overflowed, ended the run and left no row; now it ends its point alone',
 'bli_digits': 'linear.full with beliefs that sharpen slowly (since e773ac2)',
 'bli_grey': 'linear.full with beliefs that sharpen slowly (since e773ac2)',
 'bli_grey_20': 'linear.full with beliefs that sharpen slowly (since e773ac2)',
 'bli_mnist': 'linear.full with beliefs that sharpen slowly (since e773ac2)',
 'bli_resnet20': 'linear.full of the form before e773ac2',
 'bli_resnet18': 'linear.full of the form before e773ac2',
 'bli_classes': 'linear.full of the form before e773ac2',
 'bli_step': 'linear.full of the form before e773ac2',
 'black_boxed': 'seconds a step on shared cores',
 'coae_statistics': 'part=statistics','coae_figure9': 'part=figure9','coae_secrets': 'part=secrets',
 'reconstruction': "--config.trials=4 --config.sweep=(('seed',(0,1,2,3,4)),) without DLG; its pictures, and the images in its trials.npz, were taken out: they are other people's photographs, and the run draws them anew",
 'backdoor_digits': 'dirty: older rows had been deleted in the checkout, no code was changed',
 'backdoor_cifar10_small': 'without its example images',
 'backdoor_mnist_forms': 'part=mnist_forms, seed 100',
 'backdoor_defenses': 'part=defenses','backdoor_digits_parties': 'part of that name',
})
