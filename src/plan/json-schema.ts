import { z } from 'zod';
import { planSchema } from './schema.js';

/** Names the schema and the version of the form that it describes. */
const SCHEMA_ID = 'urn:verdigris:plan:1';

/** The JSON Schema (2020-12) of a plan as it is written, so with every default optional. */
export function planJsonSchema(): object {
  return {
    $id: SCHEMA_ID,
    title: 'Verdigris plan',
    description: 'A blue-green migration of a PostgreSQL database: the input of the workflow blueGreenMigration',
    ...z.toJSONSchema(planSchema, { io: 'input' }),
  };
}
