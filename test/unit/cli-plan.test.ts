import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { summaryOf } from '../../src/cli/describe-plan.js';
import { gateMeant } from '../../src/cli/message-command.js';
import { run } from '../../src/cli/run.js';
import { shellCommand } from '../../src/cli/shell-quote.js';
import { planSchema } from '../../src/plan/schema.js';
import { planWith } from './lint-plan.js';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'verdigris-cli-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function verdigris(...args: string[]): Promise<{ code: number; out: string; note: string }> {
  const out: string[] = [];
  const note: string[] = [];
  const code = await run(args, { out: (text) => out.push(text), note: (text) => note.push(text) });
  return { code, out: out.join('\n'), note: note.join('\n') };
}

async function file(content: unknown, name = 'plan.json'): Promise<string> {
  const path = join(folder, name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

const REFUSED = planWith({
  migrations: [{ addColumn: { table: 'orders', column: 'c', type: 'text', notNull: true } }],
});

describe('verdigris plan lint', () => {
  it('ends with 0 when there is nothing to say', async () => {
    expect(await verdigris('plan', 'lint', 'examples/seed.json')).toMatchObject({
      code: 0,
      out: 'examples/seed.json: no findings',
    });
  });

  it('ends with 1 and tells rule, place, what, why and what to write instead', async () => {
    const { code, out } = await verdigris('plan', 'lint', await file(REFUSED));
    expect(code).toBe(1);
    expect(out).toMatch(
      /^error: not-null-without-value\n {2}place {4}migrations\[0\]\.addColumn\.notNull\n {2}what .*\n {2}why .*\n {2}instead .*"up"/,
    );
    expect(out).toMatch(/1 error; the plan is refused/);
  });

  it('proposes no value that a column of another type could not take', async () => {
    const plan = planWith({ migrations: [{ setNotNull: { table: 'orders', column: 'details' } }] });
    const { out } = await verdigris('plan', 'lint', await file(plan));
    expect(out).toContain(`"up": "coalesce(details, <a value of the column's type>)"`);
  });

  it('looks for a file where the user is, though npm has changed to the folder of the package', async () => {
    await file(planWith(), 'mine.json');
    vi.stubEnv('INIT_CWD', folder);
    vi.stubEnv('npm_package_json', join(process.cwd(), 'package.json'));
    try {
      expect(await verdigris('plan', 'lint', 'mine.json')).toMatchObject({ code: 0 });
      // As before: by its name in the package.
      expect(await verdigris('plan', 'lint', 'examples/seed.json')).toMatchObject({ code: 0 });
      const { note } = await verdigris('plan', 'lint', 'none.json');
      expect(note).toContain(
        `there is no file ${join(folder, 'none.json')}, nor ${join(process.cwd(), 'none.json')}\n`,
      );
      // A script that has changed to a folder itself means that one.
      vi.stubEnv('npm_package_json', '/elsewhere/package.json');
      expect((await verdigris('plan', 'lint', 'mine.json')).note).toContain(
        `there is no file ${join(process.cwd(), 'mine.json')}\n`,
      );
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it('refuses a path by which the user and the package each have a plan of their own', async () => {
    const [user, ofPackage] = [join(folder, 'user'), join(folder, 'package')];
    const mine = await file(planWith(), 'user/plan.json');
    const theirs = await file(REFUSED, 'package/plan.json');
    vi.stubEnv('INIT_CWD', user);
    vi.stubEnv('npm_package_json', join(ofPackage, 'package.json'));
    const cwd = vi.spyOn(process, 'cwd').mockReturnValue(ofPackage);
    try {
      const { code, note } = await verdigris('plan', 'lint', 'plan.json');
      expect([code, note]).toEqual([2, expect.stringContaining(`${mine} and ${theirs} are two plans\n`)]);
      expect(await verdigris('plan', 'lint', mine)).toMatchObject({ code: 0 });
      // One and the same.
      await rm(theirs);
      await symlink(mine, theirs);
      expect(await verdigris('plan', 'lint', 'plan.json')).toMatchObject({ code: 0 });
      // A folder is no plan.
      await rm(mine);
      await mkdir(mine);
      await rm(theirs);
      await writeFile(theirs, JSON.stringify(planWith()));
      expect(await verdigris('plan', 'lint', 'plan.json')).toMatchObject({ code: 0 });
    } finally {
      cwd.mockRestore();
      vi.unstubAllEnvs();
    }
  });

  it('ends quietly, with what it has done, when nobody reads what it says any more', async () => {
    const main = spawn(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', 'plan', 'schema']);
    main.stdout.destroy();
    let said = '';
    main.stderr.on('data', (data: Buffer) => (said += data.toString()));
    const [code] = (await once(main, 'close')) as [number | null];
    expect({ code, said }).toEqual({ code: 0, said: '' });
  });

  it('ends with 0 when there are warnings alone, and tells them', async () => {
    const plan = planWith({ traffic: { stages: [{ percent: 10, for: '1m' }] } });
    const { code, out } = await verdigris('plan', 'lint', await file(plan));
    expect(code).toBe(0);
    expect(out).toMatch(/warning: stages-below-100[\s\S]*1 warning\. /);
  });

  it('gives findings as JSON', async () => {
    const { code, out } = await verdigris('plan', 'lint', '--json', await file(REFUSED));
    expect(code).toBe(1);
    expect(JSON.parse(out)).toMatchObject([{ rule: 'not-null-without-value', severity: 'error' }]);
  });

  it('tells what is wrong with the form of a plan', async () => {
    const { code, out } = await verdigris('plan', 'lint', await file({ ...planWith(), blu: {} }));
    expect([code, out]).toEqual([1, expect.stringContaining('write "blue"')]);
  });

  it.each(['plan lint', 'plan show', 'preflight', 'start --print'])(
    'refuses a field that stands twice, where %s reads the file',
    async (command) => {
      const { name, ...rest } = planWith();
      const text = `{ "name": "${name}", "migrations": [],\n"migrations": [], ${JSON.stringify(rest).slice(1)}`;
      const { code, out, note } = await verdigris(...command.split(' '), await file(text, 'twice.json'));
      expect([code, `${out}${note}`]).toEqual([
        1,
        expect.stringMatching(
          /^error: repeated-field\n {2}place {4}migrations\n {2}what {5}"migrations" in line 2 stands in line 1 already\n[^]*the plan is refused/,
        ),
      ]);
    },
  );

  it('reads a plan for the doctor as its run does: of a field that stands twice the last one', async () => {
    const text = JSON.stringify(planWith()).replace('{', '{ "name": "old",');
    const { note } = await verdigris('doctor', await file(text, 'run.json'));
    expect(note).toContain('VERDIGRIS_CONNECTION_ORDERS_BLUE');
  });

  it.each([
    ['behind the names of consoles', ['--pgbouncer', 'pool_1', 'pool_2', 'FILE']],
    ['behind one of several', ['--pgbouncer', 'pool_1', 'FILE', '--pgbouncer', 'pool_2']],
    ['before them', ['FILE', '--pgbouncer', 'pool_1', 'pool_2']],
  ])('takes a plan %s for a plan, and no admin console', async (_where, args) => {
    vi.stubEnv('VERDIGRIS_CONNECTION_POOL_1', 'postgres://localhost/pgbouncer');
    vi.stubEnv('VERDIGRIS_CONNECTION_POOL_2', 'postgres://localhost/pgbouncer');
    const plan = await file(planWith(), 'doctor.json');
    const { note } = await verdigris('doctor', ...args.map((arg) => (arg === 'FILE' ? plan : arg)));
    vi.unstubAllEnvs();
    expect(note).toContain('set VERDIGRIS_CONNECTION_ORDERS_BLUE');
  });

  it('asks this environment for the connections when it is told to', async () => {
    const { code, out } = await verdigris('plan', 'lint', '--connections', await file(planWith()));
    expect([code, out]).toEqual([1, expect.stringContaining('set VERDIGRIS_CONNECTION_ORDERS_BLUE')]);
  });

  it.each([
    ['no such file', async () => join(folder, 'none.json'), /there is no file .*none\.json\nnext step: /],
    [
      'a file that is not JSON',
      async () => file('{ "name": }', 'broken.json'),
      /is not JSON: [\s\S]*next step: a plan is plain JSON/,
    ],
    ['a folder', async () => folder, /can't be read/],
  ])('ends with 2 for %s', async (_what, path, says) => {
    const { code, out, note } = await verdigris('plan', 'lint', await path());
    expect({ code, out }).toEqual({ code: 2, out: '' });
    expect(note).toMatch(says);
  });

  it('ends with 2 for a command line that it does not know', async () => {
    expect(await verdigris('plan', 'lnt', 'x')).toMatchObject({
      code: 2,
      note: expect.stringContaining('lint') as string,
    });
  });
});

describe('verdigris plan', () => {
  it('show fills in the defaults', async () => {
    const { code, out } = await verdigris('plan', 'show', await file(planWith()));
    expect(code).toBe(0);
    expect(JSON.parse(out)).toEqual(planSchema.parse(planWith()));
  });

  it('schema prints the JSON Schema', async () => {
    const { out } = await verdigris('plan', 'schema');
    expect(JSON.parse(out)).toMatchObject({ title: 'Verdigris plan', required: ['name', 'blue', 'green'] });
  });
});

describe('verdigris start --print', () => {
  it('prints nothing and ends with 1 for a plan that is refused', async () => {
    const { code, out, note } = await verdigris('start', '--print', await file(REFUSED));
    expect({ code, out }).toEqual({ code: 1, out: '' });
    expect(note).toMatch(/not-null-without-value/);
  });

  it('starts on the queue of the workers, as VERDIGRIS_TASK_QUEUE says for both', async () => {
    const plan = await file(planWith());
    const queue = async (...more: string[]): Promise<string | undefined> =>
      /--task-queue (\S+)/.exec((await verdigris('start', '--print', plan, ...more)).out)?.[1];
    expect(await queue()).toBe('verdigris');
    vi.stubEnv('VERDIGRIS_TASK_QUEUE', 'second');
    expect(await queue()).toBe('second');
    expect(await queue('--task-queue', 'third')).toBe('third');
    vi.stubEnv('VERDIGRIS_TASK_QUEUE', '');
    expect(await queue()).toBe('verdigris');
    vi.unstubAllEnvs();
  });

  it('names the namespace in the command of its details, so that it answers no run of the same name in another one', async () => {
    const plan = await file(planWith({ traffic: { approval: { before: ['promote'] } } }));
    const details = async (...more: string[]): Promise<string> =>
      (await verdigris('start', '--print', plan, ...more)).out.split('--static-details')[1] ?? '';
    expect(await details()).toContain('temporal workflow update execute --workflow-id verdigris/orders ');
    const named = 'temporal workflow update execute --namespace prod --workflow-id verdigris/orders ';
    expect(await details('--namespace', 'prod')).toContain(named);
    // That machine may know the profile.
    expect(await details('--profile', 'elsewhere')).toContain('update execute --workflow-id verdigris/orders ');
    vi.stubEnv('TEMPORAL_NAMESPACE', 'prod');
    expect(await details()).toContain(named);
    vi.unstubAllEnvs();
  });

  it('prints words that a shell reads as they were meant', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.string({ minLength: 1, unit: 'binary' }).filter((w) => !w.includes('\0')),
          { maxLength: 6 },
        ),
        (words) => {
          const line = shellCommand(['printf', '%s\\0', ...words]);
          const read = execFileSync('sh', ['-c', line]).toString().split('\0').slice(0, -1);
          expect(read).toEqual(words.length === 0 ? [''] : words);
        },
      ),
      { numRuns: 60, examples: [[['--static-details', 'it\'s\n`x` $y \\ "z"']]] },
    );
  });
});

describe('verdigris --version', () => {
  it('says the version of the package', async () => {
    const { version } = JSON.parse(await readFile('package.json', 'utf8')) as { version: string };
    expect(await verdigris('--version')).toEqual({ code: 0, out: version, note: '' });
  });
});

describe('messages to a run', () => {
  it.each(['approve', 'pause', 'resume', 'rollback', 'retire'])(
    'the help of %s says what is required',
    async (name) => {
      const { out } = await verdigris(name, '--help');
      expect(out).toMatch(/--by <who> +who sends this \(required\)\n *--reason <why> +why \(required\)/);
    },
  );

  it.each([
    ['retire', /in a rollback that waits: give it up and stay on green/],
    ['resume', /after a pause, or after a hold/],
  ])('the help of %s says what else it does', async (name, what) => {
    expect((await verdigris(name, '--help')).out.replaceAll(/\s+/g, ' ')).toMatch(what);
  });

  it.each([
    ['50', 'stage-50'],
    ['0.5', 'stage-0.5'],
    ['05 %', 'stage-5'],
    ['100%', 'stage-100'],
    ['stage-50', 'stage-50'],
    ['promote', 'promote'],
    ['50-', '50-'],
  ])('approve %s means the gate %s', (point, gate) => {
    expect(gateMeant(point)).toBe(gate);
  });
});

describe('the summary of a run', () => {
  it('is one line of at most 200 bytes, whatever the plan is called', () => {
    const connection = 'a'.repeat(150);
    const summary = summaryOf(
      planSchema.parse(planWith({ blue: { connection }, green: { connection: `${connection}b` } })),
    );
    expect(Buffer.byteLength(summary)).toBeLessThanOrEqual(200);
    expect(summary).not.toContain('\n');
  });
});
