import { peerUser } from '../feed-timeouts.js';
import { ident } from '../identifier.js';
import { connectionVariable } from '../session.js';
import { oneRow, type Found, type PairCheck, type SideContext } from './check.js';

/**
 * Where a server writes down every statement with its values, or also those that functions run, runSecretStatement() can't
 * keep the password of the other server out of that. One of a user that is there for nothing else is changed afterwards.
 */
export const loggedPassword: PairCheck = {
  name: 'logged-password',
  run: async ({ blue, green }) => [
    ...(await writtenDown(green, blue)).map((found) => ({ side: 'green' as const, ...found })),
    ...(await writtenDown(blue, green)).map((found) => ({ side: 'blue' as const, ...found })),
  ],
};

/** @param of the side whose password the subscriptions on `on` have */
async function writtenDown(on: SideContext, of: SideContext): Promise<Found[]> {
  const { worker } = await oneRow<{ worker: string }>(of.session, 'SELECT current_user::text AS worker');
  if ((peerUser(of.database) ?? worker) !== worker) return [];
  const { rows } = await on.session.query<{ name: string; value: string; off: string | null; user: string }>(WRITTEN);
  const [first] = rows;
  if (first === undefined) return [];
  const settings = rows.map(({ name, value }) => `${name} = ${value}`).join(', ');
  const switches = [...new Set(rows.map(({ off }) => off))];
  const grant = `; or on ${on.side} GRANT SET ON PARAMETER ${switches.join(', ')} TO ${ident(first.user)}`;
  return [
    {
      severity: 'warning',
      object: rows.map(({ name }) => name).join(', '),
      message: `${on.side}'s server writes the password by which it reaches ${of.side} into its log or statistics (${settings}): it is that of "${worker}", as whom the worker does everything there`,
      remedy:
        `Set VERDIGRIS_CONNECTION_${connectionVariable(of.database.connection)}_PEER with a user of its own, and change its password when the run has ended` +
        (switches.includes(null) ? '' : grant),
    },
  ];
}

/**
 * The settings by which it is written down, each with the one that switches that off, where the role may not set it; null
 * where no session may.
 */
const WRITTEN = `
  WITH writing (name, value, off) AS (VALUES
    ('log_statement', '^all$', 'log_parameter_max_length'),
    ('log_min_duration_statement', '^0$', 'log_parameter_max_length'),
    ('log_min_duration_sample', '^0$', 'log_parameter_max_length'),
    ('log_transaction_sample_rate', '[1-9]', 'log_parameter_max_length'),
    ('auto_explain.log_min_duration', '^0$', 'auto_explain.log_parameter_max_length'),
    ('pg_stat_statements.track', '^all$', 'pg_stat_statements.track_utility'),
    ('pg_stat_monitor.pgsm_track', '^all$', 'pg_stat_monitor.pgsm_track_utility'),
    ('pg_qs.query_capture_mode', '^all$', 'pg_qs.track_utility'),
    ('pgaudit.log_parameter', '^on$', 'pgaudit.log_parameter'),
    ('pgaudit.log', '^(?!.*-\\s*ddl).*\\m(all|ddl)\\M', NULL))
  SELECT w.name, s.setting AS value, CASE WHEN o.context = 'superuser' THEN w.off END AS off, current_user::text AS "user"
    FROM writing w JOIN pg_settings s ON s.name = w.name LEFT JOIN pg_settings o ON o.name = w.off
   WHERE s.setting ~* w.value
     AND (w.off IS NULL
          OR o.setting NOT IN ('0', 'off')
             AND NOT (o.context = 'user' OR o.context = 'superuser' AND has_parameter_privilege(w.off, 'SET')))
   ORDER BY w.name`;
