import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parsePlan, type ParsedPlan } from '../plan/parse.js';
import { repeatedFields } from '../plan/repeated-fields.js';
import { CommandError } from './terminal.js';

/** A plan as it was written, and what it says with its defaults. */
export interface ReadPlan {
  /** The JSON of the file: what the workflow is started with. */
  readonly written: unknown;
  readonly parsed: ParsedPlan;
}

/**
 * Reads a plan from a file, or from standard input for `-`. One with a field that stands twice has findings.
 *
 * @throws CommandError when there is no such file, or two that differ, or when it is not JSON.
 */
export async function readPlan(file: string): Promise<ReadPlan> {
  const text = await readText(file);
  const written = parseJson(file, text);
  const parsed = parsePlan(written);
  const repeated = repeatedFields(text);
  if (repeated.length === 0) return { written, parsed };
  return { written, parsed: { findings: [...repeated, ...('findings' in parsed ? parsed.findings : [])] } };
}

/**
 * The same of a plan that a run may have been started with already: of a field that stands twice the last one counts, as
 * it does for the run.
 */
export async function readPlanOfRun(file: string): Promise<ParsedPlan> {
  return parsePlan(parseJson(file, await readText(file)));
}

async function readText(file: string): Promise<string> {
  const places = file === '-' ? ['/dev/stdin'] : [...new Set(foldersOfUser().map((folder) => resolve(folder, file)))];
  const found = await Promise.all(places.map(readWhereThere));
  const texts = found.filter((one) => typeof one === 'string');
  const [text] = texts;
  if (text === undefined)
    throw found.find((one) => one instanceof CommandError) ?? notRead(`there is no file ${places.join(', nor ')}`);
  // Who types a path means the first, a script of the package the second.
  if (texts.some((other) => other !== text))
    throw new CommandError(`${places.join(' and ')} are two plans`, 'give the whole path of the one that is meant');
  return text;
}

/** Undefined where there is no such file; why it is none where it is a folder. */
async function readWhereThere(place: string): Promise<string | CommandError | undefined> {
  try {
    return await readFile(place, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    const why = notRead(`${place} can't be read: ${message(error)}`);
    if (code === 'EISDIR') return why;
    throw why;
  }
}

/** Where a relative path may begin: `npm run` changes to the folder of the package, and tells where the user was. */
function foldersOfUser(): string[] {
  const { INIT_CWD: user, npm_package_json: manifest } = process.env;
  const here = process.cwd();
  return user !== undefined && manifest !== undefined && dirname(manifest) === here ? [user, here] : [here];
}

function notRead(what: string): CommandError {
  return new CommandError(what, 'give the path of a plan, or - for standard input; examples/ has some to begin with');
}

function parseJson(file: string, text: string): unknown {
  try {
    // Editors on Windows put a byte order mark before the text.
    return JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch (error) {
    throw new CommandError(
      `${file} is not JSON: ${message(error)}`,
      'a plan is plain JSON, without comments and without a comma after the last field',
    );
  }
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
