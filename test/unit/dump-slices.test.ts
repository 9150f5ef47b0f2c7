import { expect, it } from 'vitest';
import { parseStatements, type Statement } from '../../src/plan/sql-tree.js';
import { statementsInSlices } from '../../src/postgres/schema-copy/dump-slices.js';
import { readPreDataStatements } from '../../src/postgres/schema-copy/schema-statements.js';

const between = (name: string): string => `\n\n\n--\n-- Name: ${name}; Type: TABLE; Schema: public; Owner: -\n--\n\n`;

/** As pg_dump writes it, with what looks like the end of an object inside of others. */
const DUMP = [
  'SET check_function_bodies = false;',
  `${between('f()')}CREATE FUNCTION "public"."f"() RETURNS "void" LANGUAGE "plpgsql" AS $body$ BEGIN PERFORM 1;${between('a')}PERFORM 'ü; $$'; END $body$;`,
  `${between('g()')}CREATE FUNCTION "public"."g"() RETURNS "void" LANGUAGE "sql" BEGIN ATOMIC SELECT 1;${between('b')} SELECT 2;\n END;`,
  `${between('h()')}CREATE FUNCTION "public"."h"() RETURNS "text" LANGUAGE "sql" AS 'SELECT ''x;${between('c')}y''; ';`,
  `${between('r')}CREATE RULE "r" AS ON INSERT TO "public"."a" DO (DELETE FROM "public"."b";${between('d')}DELETE FROM "public"."c";);`,
  `${between('v')}CREATE VIEW "public"."v" AS\n SELECT 1 AS "x";\nCOMMENT ON VIEW "public"."v" IS 'a; b;${between('e')}c';`,
  `${between('t')}/* no;${between('t')} */ CREATE TABLE "public"."größe" ("id" integer); -- one;`,
  `${between('do')}DO $$ BEGIN EXECUTE 'SELECT 1;'; END $$;`,
  '\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n',
].join('');

/** Without the places, which count from the begin of a slice. */
function withoutPlaces(statements: readonly Statement[]): unknown {
  return JSON.parse(JSON.stringify(statements, (name, value: unknown) => (name === 'location' ? undefined : value)));
}

async function inSlices(dump: string, length?: number): Promise<Statement[][]> {
  const slices: Statement[][] = [];
  for await (const statements of statementsInSlices(dump, length)) slices.push(statements);
  return slices;
}

it('a dump in slices has the same statements as the whole, wherever it is cut', async () => {
  const whole = withoutPlaces(await parseStatements(DUMP));
  for (const length of [1, 50, 200, 400, 100_000]) {
    expect(withoutPlaces((await inSlices(DUMP, length)).flat())).toEqual(whole);
  }
  expect((await inSlices(DUMP, 1)).length).toBeGreaterThan(1);
});

it('a mistake in a later slice is told by its own words, and an empty dump is none', async () => {
  const broken = `${DUMP}${between('x')}CREATE FUNCTION f(json jsonb;${DUMP}`;
  await expect(inSlices(broken, 1)).rejects.toThrow(/near "jsonb"/);
  await expect(inSlices('')).rejects.toThrow(/empty/);
});

it('others have their turn while a long dump is read', async () => {
  const columns = Array.from({ length: 20 }, (_, i) => `    "column_${i}" character varying(100) DEFAULT 'x' NOT NULL`);
  const tables = Array.from(
    { length: 800 },
    (_, i) => `${between(`t_${i}`)}CREATE TABLE "public"."t_${i}" (\n${columns.join(',\n')}\n);`,
  );
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  const kept = await readPreDataStatements(tables.join('')).finally(() => clearInterval(timer));
  expect(kept).toHaveLength(800);
  expect(turns).toBeGreaterThan(5);
});
