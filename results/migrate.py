"""One-off: rows under results/ of commit BASE into the layout of runs.LAYOUT 2.

python migrate.py OUT   (run in a checkout whose git has BASE; renames from renames.py)
"""
import copy, io, itertools, json, pathlib, re, subprocess, sys
import numpy as np
sys.path.insert(0, 'results')
import renames
BASE = '9c6a1fa'
def git(path): return subprocess.run(['git','show',f'{BASE}:{path}'],capture_output=True,check=True).stdout
def ls():
  out = subprocess.run(['git','ls-tree','-r','--name-only',BASE,'results/'],capture_output=True,text=True).stdout.split()
  return sorted({p.split('/')[1] for p in out if p.endswith('rows.jsonl')})
def describe(value):
  if isinstance(value, (tuple, list)): return [describe(v) for v in value]
  if not isinstance(value, dict): return value
  rest = ', '.join(f'{k}={describe(v)}' for k, v in sorted(value.items()) if k != 'name')
  name = value.get('name', '')
  return f'{name}({rest})' if name and rest else name or rest
def set_path(config, path, value):
  parts = re.findall(r"[\w]+", path)
  for p in parts[:-1]: config = config[int(p)] if isinstance(config, list) else config[p]
  last = parts[-1]
  if isinstance(config, list): config[int(last)] = value
  else: config[last] = value
def grid(config):
  axes = []
  for path, values in config.get('sweep', ()):
    if isinstance(path, str): axes.append([((path, v),) for v in values])
    else: axes.append([tuple(zip(path, v)) for v in values])
  for choices in itertools.product(*axes):
    full, point = copy.deepcopy(config), {}
    for path, value in itertools.chain(*choices):
      set_path(full, path, copy.deepcopy(value)); point[path] = value
    yield point, full
def text_entry(row):  # old trials.npz prefix
  point = ', '.join(f'{k}={v}' for k, v in row['point'].items()) or 'default'
  point = point.replace('/', '|')
  args = ', '.join(f'{k}={v}' for k, v in sorted(row['attack_args'].items()))
  vertical = 'attacker' in row['setting']
  public = ('bottom',) if vertical else ('lr','steps','clients','defense','apply')
  more = [f'+{k}' for k in row['known'] if k not in (*public,'party','pool')]
  less = [f'-{k}' for k in public if k not in row['known']]
  return f"{point}/{''.join([row['attack'], f'({args})' if args else '', *more, *less])}"
def chain(config):
  """All that defends, in one tuple."""
  out = [dict(s) for s in config.get('code', ())]
  if config.get('penalty'): out.append(dict(config['penalty']))
  top = config.get('top')
  if top and top['name'].startswith('bottleneck.'): out.append(dict(top))
  out += [dict(s, at='step') for s in config.get('step_defense', ())]
  return out + [dict(s) for s in config.get('defense', ())]
def new_row(row, full):
  old = row['setting']
  extra = {k: v for k, v in old.items() if k not in ('data','model','num_classes','batch_size','trained','defense','code','penalty') and v is not None}
  if 'top' in extra:
    top = full.get('top')
    extra['top'] = 'sum' if not top or top['name'].startswith('bottleneck.') else top
  for k in ('split','aggregate','trigger','poison'):
    if k in extra:
      assert describe(full[k]) == extra[k] or k=='poison', (k, describe(full[k]), extra[k])
      extra[k] = full[k]
  model = full.get('model') or {'name':'?'}
  defense = chain(full)
  setting = dict(data=row['data'], model=model, num_classes=old['num_classes'], batch_size=old.get('batch_size'), trained=old['trained'], defense=defense, stands_for={}, extra=extra)
  if full.get('experiment') == 'codes': setting['model'] = {'name': 'none'}
  st = full.get('stands_for') or {}
  setting['stands_for'] = {k: v for k, v in dict(st).items() if v}
  if isinstance(setting['stands_for'].get('model'), str): setting['stands_for']['model'] = {'name': setting['stands_for']['model']}
  # checks against the text
  assert (st.get('data') or row['data']) == old['data'], (st, old['data'], row['data'])
  text = '+'.join(describe(s) for s in [*full.get('step_defense',()), *full.get('defense',())]) or 'none'
  assert text == old['defense'], (text, old['defense'])
  if 'code' in old and full.get('experiment') != 'codes':
    assert ('+'.join(describe(s) for s in full.get('code',())) or 'none') == old['code'], old['code']
  if 'penalty' in old: assert (describe(full['penalty']) if full.get('penalty') else 'none') == old['penalty']
  if full.get('experiment') != 'codes': assert describe(model) == row['model'], (describe(model), row['model'])
  known = []
  for k in row['known']:
    pass
  known = renames.known(row['known'])
  out = dict(config=row['config'], point=None, attack=dict(name=row['attack'], **row['attack_args']), known=known, setting=setting, trials=row['trials'], seed=row['seed'], metrics=row['metrics'])
  for k in ('matrix','per_trial','gain','examples','traffic','step_seconds'):
    if k in row: out[k] = row[k]
  for k in ('paper','seconds','device','versions','commit'): out[k] = row[k]
  return out
def complete(config):
  sys.path.insert(0, '.')
  from configs import common
  from labelleak import spec
  kind = config['experiment'].split('.')[0]
  defaults = common.hfl('x') if kind == 'hfl' else common.vfl('x')
  if config['experiment'] in ('vfl.model_completion','vfl.attribution','vfl.property_inference'): defaults = common.completion('x')
  if config['experiment'] == 'vfl.backdoor': defaults = common.poisoned('x')
  defaults = json.loads(json.dumps(spec.plain(defaults)))
  def fill(c, d, path=''):
    for k, v in d.items():
      if k not in c:
        print('FILL', path + k, json.dumps(v)[:60]); c[k] = v
      elif isinstance(v, dict) and isinstance(c[k], dict) and k in ('train','aux','he','observed','stands_for','poison'): fill(c[k], v, f'{path}{k}.')
    for k in list(c):
      if k not in d and path == '': print('EXTRA', k)
    return c
  return fill(config, defaults)
def main(out):
  for folder in ls():
    rows = [json.loads(l) for l in git(f'results/{folder}/rows.jsonl').splitlines()]
    config = json.loads(git(f'results/{folder}/config.json'))
    points = list(grid(config))
    with np.load(io.BytesIO(git(f'results/{folder}/trials.npz')), allow_pickle=False) as f: arrays = dict(f)
    described = [({k: json.loads(json.dumps(describe(v))) for k, v in p.items()}, p, full) for p, full in points]
    new, kept, used = [], {}, set()
    for i, row in enumerate(rows):
      match = [(p, full) for d, p, full in described if d == row['point']]
      if not match:
        print('NO POINT', folder, row['point']); match=[({}, config)]
      assert len(match) == 1, (folder, len(match))
      point, full = match[0]
      try: r = new_row(row, full)
      except AssertionError as e:
        print('ASSERT', folder, str(e)[:300]); raise
      r['point'] = point; r['provenance'] = renames.PROVENANCE.get(folder)
      new.append(renames.apply(r, full, config))
      prefix = text_entry(row) + '/'
      own = {k: v for k, v in arrays.items() if k.startswith(prefix)}
      if not own: print('NO TRIALS', folder, prefix)
      for k, v in own.items():
        kept[f'{i}/{k.removeprefix(prefix)}'] = v; used.add(k)
    if set(arrays) - used: print('UNUSED', folder, list(set(arrays)-used)[:3])
    path = pathlib.Path(out)/folder; path.mkdir(parents=True, exist_ok=True)
    (path/'rows.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in new))
    (path/'config.json').write_text(json.dumps(dict(layout=2, config=complete(renames.config(config))), indent=2)+'\n')
    np.savez_compressed(path/'trials.npz', **kept)
if __name__ == '__main__': main(sys.argv[1])
