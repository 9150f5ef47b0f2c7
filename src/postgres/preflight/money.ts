import { oneRow, type Found, type PairCheck, type SideContext } from './check.js';
import { columnsOfTypes } from './columns-of-types.js';
import { listed } from './finding.js';

/** How a server writes amounts of type money. */
export interface MoneyFormat {
  /** lc_monetary. */
  readonly locale: string;
  /** Amounts as it writes them: locales of several names may do the same. */
  readonly sample: string;
}

/** A feed carries values as text, and how money is written and read depends on each server's own lc_monetary. */
export const money: PairCheck = {
  name: 'money',
  run: async ({ blue, green }) => {
    const columns = await columnsOfTypes(blue.session, await blue.tables(), ['money']);
    if (columns.length === 0) return [];
    const found = judgeMoney(columns, await formatOf(blue), await formatOf(green));
    return found.map((one) => ({ ...one, side: 'green' }));
  },
};

/** Of a new session of the connection's user, as the server's own processes for that user have it. */
function formatOf({ session }: SideContext): Promise<MoneyFormat> {
  return oneRow(
    session,
    `SELECT current_setting('lc_monetary') AS locale,
            concat_ws(' ', 1234567.89::numeric::money, (-1234.5)::numeric::money, 0.07::numeric::money) AS sample`,
  );
}

/** Whether what blue writes is what green reads. Pure. */
export function judgeMoney(columns: readonly string[], blue: MoneyFormat, green: MoneyFormat): Found[] {
  if (blue.sample === green.sample) return [];
  return [
    {
      severity: 'error',
      object: listed(columns),
      message: `these columns hold money, which is written as text in the feed: lc_monetary is "${blue.locale}" on blue and "${green.locale}" on green, which would refuse it or read another amount`,
      remedy: `ALTER DATABASE ... SET lc_monetary = '${blue.locale}' on green (as a superuser), where its system has that locale; or change the columns to numeric on blue`,
    },
  ];
}
