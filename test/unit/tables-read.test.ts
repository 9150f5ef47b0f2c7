import { describe, expect, it } from 'vitest';
import { tablesRead } from '../../src/postgres/preflight/written-tables.js';

const names = (text: string): string[] =>
  tablesRead(text).map(({ schema, name }) => (schema === null ? name : `${schema}.${name}`));

describe('the tables that the text of a function reads', () => {
  it.each([
    ['SELECT EXISTS (SELECT FROM shop.currencies c WHERE c.code = $1)', ['shop.currencies']],
    ['SELECT 1 FROM Shop.Rates AS r JOIN ONLY "Old Rates" o USING (id)', ['shop.rates', 'Old Rates']],
    ['SELECT 1 FROM a x, shop . "b""c" , d', ['a', 'shop.b"c', 'd']],
    ['BEGIN FOR r IN SELECT * FROM list LOOP RETURN r.id; END LOOP; END', ['list']],
    ['SELECT trim(both FROM t.a) FROM lk.t', ['lk.t']],
    ['SELECT trim((SELECT a FROM lk.t)), substring((SELECT a FROM lk.u) FROM pos)', ['lk.t', 'lk.u']],
    ["BEGIN EXECUTE 'SELECT 1 FROM dynamic' INTO n; END", ['dynamic']],
  ])('%s', (text, read) => {
    expect(names(text)).toEqual(read);
  });

  it.each([
    'SELECT $1 IS DISTINCT FROM currencies',
    'SELECT extract(year FROM currencies)',
    "SELECT extract('epoch' from currencies), extract ( epoch FROM currencies )",
    "SELECT trim(both from currencies), trim(leading '/' FROM currencies), trim(FROM currencies)",
    'SELECT substring(email from currencies for 2), overlay(email placing $1 from currencies)',
    'SELECT TRIM(both lower($1) from currencies), substring(trim(both from rates) from pg_catalog.abs(length($1))) , trim(x from currencies)',
    "SELECT count(*) FROM unnest(string_to_array($1, ',')) AS part",
    'WITH currencies (code) AS MATERIALIZED (SELECT unnest($1)), rates AS (SELECT 1) SELECT 1 FROM currencies JOIN rates ON true',
    "-- FROM currencies\n/* FROM currencies */ SELECT 'from currencies', $q$ from currencies $q$",
    'SELECT 1 FROM (SELECT 2) AS currencies',
  ])('are none in: %s', (text) => {
    expect(names(text)).toEqual([]);
  });
});
