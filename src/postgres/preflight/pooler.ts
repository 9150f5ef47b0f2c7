import { connectionVariable, isThroughPooler } from '../session.js';
import { BOTH_SIDES, type SideCheck } from './check.js';

/** One that shares the server's connections among its clients is refused when the session is opened. */
export const pooler: SideCheck = {
  name: 'pooler',
  sides: BOTH_SIDES,
  run: ({ session, database: { connection } }) =>
    Promise.resolve(
      isThroughPooler(session)
        ? [
            {
              severity: 'warning',
              object: connection,
              message:
                'the connection leads through a pooler or a proxy, which keeps one of the server for each session: its size and its limits of time hold for the run as well, and in transaction mode it is refused',
              remedy: `Write the address of the server itself into VERDIGRIS_CONNECTION_${connectionVariable(connection)}; or see that the pooler has some twenty connections for this user, and ends none that waits or takes long`,
            },
          ]
        : [],
    ),
};
