import { describe, it } from 'vitest';
import { movesUnderLoad } from '../support/whole-run.js';

/* Within 18, with a window that ends by itself: test/long/whole-migration.long.ts. */

describe('a whole migration pg15 -> pg18', () => {
  it('moves a database under load: no request fails, no write is lost, the schema is new, blue is fenced', () =>
    movesUnderLoad('pg15', 'pg18', 'by retire'));
});
