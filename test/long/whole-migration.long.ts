import { describe, it } from 'vitest';
import { movesUnderLoad } from '../support/whole-run.js';

describe('a whole migration pg18 -> pg18', () => {
  it('moves a database under load: no request fails, no write is lost, the schema is new, blue is fenced', () =>
    movesUnderLoad('pg18', 'pg18', 'by itself'));
});
