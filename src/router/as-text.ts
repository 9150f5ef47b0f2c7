import type pg from 'pg';

/**
 * For the router's own questions: columns are texts in any format. What the application makes of values, in its pool's
 * `types` or for all of node-postgres, is for its own statements, and it may be anything.
 */
export const AS_TEXT: pg.CustomTypesConfig = { getTypeParser: () => String };
