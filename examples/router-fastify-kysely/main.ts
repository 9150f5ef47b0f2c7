import { createRouter } from 'verdigris/router';
import { application } from './application.js';

const { BLUE_URL, GREEN_URL, MIGRATION, TOKEN_SECRET, PORT = '3000' } = process.env;
if (BLUE_URL === undefined || GREEN_URL === undefined || MIGRATION === undefined || TOKEN_SECRET === undefined) {
  throw new Error('BLUE_URL, GREEN_URL, TOKEN_SECRET and MIGRATION, the name of the plan, are needed');
}

const router = createRouter({
  migration: MIGRATION,
  blue: { connectionString: BLUE_URL, max: 10 },
  green: { connectionString: GREEN_URL, max: 10 },
});
const app = application(router, TOKEN_SECRET);

// Either side may be down: requests wait for the one that they need, and only for that.
const address = await app.listen({ port: Number(PORT), host: '127.0.0.1' });
process.stdout.write(`listening on ${address}\n`);

for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void app.close());
