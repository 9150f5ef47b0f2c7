import type { Rule } from '../rule.js';
import { impuritiesOf, type Impurity } from '../volatility.js';
import { allTrees } from './expressions.js';

/** What is wrong with one that depends on a setting, and what helps, wherever it stands. */
function onSetting({ what }: Impurity): { readonly message: string; readonly instead: string } {
  return {
    message: `${what} depends on default_text_search_config, which is not the same in every session`,
    instead: "name the configuration as its first argument: to_tsvector('english', body)",
  };
}

/** Rules on expressions that give another value at another time. */

export const volatileUp: Rule = {
  name: 'volatile-up',
  severity: 'error',
  why: '"up" is computed again: by the trigger, by the backfill, and by the verification, which compares; with another value each time no row would ever be equal',
  *check({ expressions }) {
    for (const { place, use, parsed } of expressions) {
      const found = use === 'up' && parsed !== undefined ? impuritiesOf(parsed.node)[0] : undefined;
      if (found === undefined) continue;
      if (found.kind === 'setting') yield { place, ...onSetting(found) };
      else {
        yield {
          place,
          message: `${found.what} gives another value each time that it is computed`,
          instead:
            'compute the value from columns of the row, such as created_at or md5(id::text)::uuid; for a value at insertion write "default" instead of "up"',
        };
      }
    }
  },
};

export const volatileExpression: Rule = {
  name: 'volatile-expression',
  severity: 'error',
  why: 'a row that was right when it was written would be wrong later: PostgreSQL refuses such indexes, and blue and green would disagree',
  *check(facts) {
    const elsewhere = new Set(
      facts.expressions.filter(({ use }) => use === 'up' || use === 'default').map((e) => e.place),
    );
    for (const { place, tree } of allTrees(facts)) {
      const found = elsewhere.has(place) ? undefined : impuritiesOf(tree)[0];
      if (found === undefined) continue;
      if (found.kind === 'setting') yield { place, ...onSetting(found) };
      else {
        yield {
          place,
          message: `${found.what} does not depend on the row`,
          instead: 'compare with a column or with a fixed value',
        };
      }
    }
  },
};

const SERIAL = new Set(['serial', 'serial2', 'serial4', 'serial8', 'smallserial', 'bigserial']);

export const volatileDefault: Rule = {
  name: 'volatile-default',
  severity: 'error',
  why: 'PostgreSQL rewrites the whole table to give each row a value of its own, and the same row would have another value after a rollback and a second try',
  *check({ expressions, types }) {
    for (const { place, use, parsed } of expressions) {
      if (use !== 'default' || parsed === undefined) continue;
      const found = impuritiesOf(parsed.node).find(({ kind }) => kind === 'volatile');
      if (found === undefined) continue;
      yield {
        place,
        message: `${found.what} gives another value for each row`,
        instead:
          'add the column without a default and compute it in "up" from the row (md5(id::text)::uuid); let the application give new rows their value',
      };
    }
    for (const { place, text, parsed } of types) {
      if (parsed === undefined || !SERIAL.has(parsed.name)) continue;
      yield {
        place,
        message: `${text} is an integer with the default nextval(), another value for each row`,
        instead: 'write "bigint" and compute the value in "up" from the row',
      };
    }
  },
};

export const timeDefault: Rule = {
  name: 'time-default',
  severity: 'warning',
  why: 'a default such as now() is computed once when the column is added: all rows that are there get that one value, and rows that come from blue the moment at which they arrive on green',
  *check({ expressions }) {
    for (const { place, use, parsed } of expressions) {
      if (use !== 'default' || parsed === undefined) continue;
      const found = impuritiesOf(parsed.node).filter(({ kind }) => kind !== 'setting');
      const first = found[0];
      if (first === undefined || found.some(({ kind }) => kind === 'volatile')) continue;
      yield {
        place,
        message: `${first.what} is not the time at which a row was made`,
        instead:
          'if the rows have such a time, write it as "up" instead, such as "up": "created_at"; else keep the default and know what it means',
      };
    }
  },
};
