import { describe, expect, it } from 'vitest';
import { columnsOf, parseAssignment, parseExpression, parseIndexElement } from '../../src/plan/expression.js';
import { SqlSyntaxError, parseStatements } from '../../src/plan/sql-tree.js';

describe('columns that an expression reads', () => {
  it.each([
    ["jsonb_build_object('legacy', true)", []],
    ['verdigris.try_jsonb(payload)', ['payload']],
    ['coalesce(t."Old Name", b) || b', ['Old Name', 'b']],
    ['CASE WHEN Amount > 0 THEN amount ELSE other END', ['amount', 'other']],
    ['public.transactions.status::text', ['status']],
    ["'a column name in a string' || x /* y */ -- z", ['x']],
    ['$$a$$ || "ünïcode ""q"""', ['ünïcode "q"']],
    ['ARRAY[a, b]', ['a', 'b']],
    ['(a).b', ['a']],
    ['count(*) OVER (PARTITION BY p ORDER BY o)', ['p', 'o']],
    ['row_to_json(t.*)', []],
  ])('%s', async (expression, columns) => {
    expect(await columnsOf(expression)).toEqual(columns);
  });

  it.each([
    'a, b',
    'a AS b',
    'a FROM t',
    'a) OR (b',
    '1); DROP TABLE t; SELECT (1',
    'a; SELECT 1',
    'a;',
    '*',
    '',
    '  ',
    '-- nothing',
    'a +',
    'DISTINCT a',
    'a UNION SELECT b',
    'a WHERE true',
    'a LIMIT 1',
  ])('"%s" is not one expression', async (expression) => {
    await expect(parseExpression(expression)).rejects.toBeInstanceOf(SqlSyntaxError);
  });
});

describe('the assignment of a down expression', () => {
  it.each([
    ['status = new_status::text', { column: 'status', expression: 'new_status::text' }],
    ['Status=a = b', { column: 'status', expression: 'a = b' }],
    ['"Old ""Name""" = upper(name)', { column: 'Old "Name"', expression: 'upper(name)' }],
  ])('%s', async (text, assignment) => {
    expect(await parseAssignment(text)).toEqual(assignment);
  });

  it.each([
    'status',
    'status = ',
    'status == 1',
    't.status = 1',
    '= 1',
    'a = b; DROP TABLE t',
    'a => b',
    'a = b, c = d',
  ])('"%s" is refused', async (text) => {
    await expect(parseAssignment(text)).rejects.toBeInstanceOf(SqlSyntaxError);
  });
});

describe('the elements of an index', () => {
  it.each([
    ['created_at DESC NULLS LAST', 'created_at', ['created_at']],
    ['payload_json jsonb_path_ops', 'payload_json', ['payload_json']],
    ['"Order No"', 'Order No', ['Order No']],
    ['(lower(email) || name)', null, ['email', 'name']],
    ['lower(email)', null, ['email']],
  ])('%s', async (text, column, columns) => {
    expect(await parseIndexElement(text)).toMatchObject({ column, columns });
  });

  it.each(['a, b', 'Order No x', 'order', 'a) WHERE (b', 'a); DROP TABLE t; --', 'a) INCLUDE (b', ''])(
    '"%s" is refused',
    async (text) => {
      await expect(parseIndexElement(text)).rejects.toBeInstanceOf(SqlSyntaxError);
    },
  );
});

describe('the statements of a text', () => {
  it('are cut where PostgreSQL cuts them, whatever is quoted or not ASCII', async () => {
    const statements = await parseStatements(
      `-- ünïcode; comment\nSELECT ';' AS "ä;";\nDO $x$ BEGIN PERFORM 1; END $x$;  SELECT 2`,
    );
    expect(statements.map((s) => s.text)).toEqual([
      `SELECT ';' AS "ä;"`,
      'DO $x$ BEGIN PERFORM 1; END $x$',
      'SELECT 2',
    ]);
  });

  it('that do not parse say where', async () => {
    await expect(parseStatements('CREATE VIEW v AS SELEC 1')).rejects.toThrow(/syntax error at or near "SELEC".*after/);
  });
});
