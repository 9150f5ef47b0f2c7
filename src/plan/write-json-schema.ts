import { writeFile } from 'node:fs/promises';
import { format } from 'prettier';
import { planJsonSchema } from './json-schema.js';

/** Writes plan.schema.json: `npm run plan-schema`. A test fails when the file is not what this would write. */
const target = new URL('../../plan.schema.json', import.meta.url);
await writeFile(target, await format(JSON.stringify(planJsonSchema()), { parser: 'json', printWidth: 120 }));
