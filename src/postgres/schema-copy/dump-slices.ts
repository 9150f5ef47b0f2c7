import { setImmediate } from 'node:timers/promises';
import { parseStatements, SqlSyntaxError, type Statement } from '../../plan/sql-tree.js';

/*
 * The parser is one call that nothing else of the process runs beside, and its tree takes many times the room of the text. So a
 * dump, which may be of tens of MB, is read slice by slice.
 */

/** About what is parsed at once, in characters: some 50 ms. */
const SLICE = 100_000;

/** What pg_dump writes between two objects. The text of a function may have it, too. */
const BETWEEN_OBJECTS = ';\n\n\n--\n-- ';

/**
 * The statements of a dump, in its order: the same as those of the whole text, but for the places in their trees, which count
 * from the begin of a slice. Others have their turn between two slices.
 *
 * @param length the least of a slice, in characters. Default: 100,000
 * @throws SqlSyntaxError
 */
export async function* statementsInSlices(dump: string, length = SLICE): AsyncGenerator<Statement[]> {
  let from = 0;
  do {
    const { statements, end } = await readSlice(dump, from, length);
    yield statements;
    from = end;
    await setImmediate();
  } while (from < dump.length);
}

/**
 * Text that ends within a statement is refused (a quote is open, END or a parenthesis is missing): then the slice has been cut at
 * a wrong place. Text that is taken is whole statements, whatever follows it.
 */
async function readSlice(dump: string, from: number, least: number): Promise<{ statements: Statement[]; end: number }> {
  for (let length = least; ; length *= 2) {
    const end = endOfObject(dump, from + length);
    try {
      return { statements: await parseStatements(dump.slice(from, end)), end };
    } catch (error) {
      if (!(error instanceof SqlSyntaxError) || end === dump.length) throw error;
    }
    await setImmediate();
  }
}

function endOfObject(dump: string, from: number): number {
  const at = dump.indexOf(BETWEEN_OBJECTS, from);
  return at < 0 ? dump.length : at + 1;
}
