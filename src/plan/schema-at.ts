import { z } from 'zod';

/** What stands inside defaults, optionals and before transforms: the schema that a value is checked by. */
export function unwrap(schema: z.core.$ZodType): z.core.$ZodType {
  if (schema instanceof z.ZodPipe) return unwrap(schema.def.in);
  if (
    schema instanceof z.ZodOptional ||
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault ||
    schema instanceof z.ZodNullable
  ) {
    return unwrap(schema.def.innerType);
  }
  return schema;
}

/**
 * The schema of the field that a path leads to within `value`; at a union the option that the value was meant to be.
 * Undefined when the path leaves the schema.
 */
export function schemaAt(
  schema: z.core.$ZodType,
  value: unknown,
  path: readonly PropertyKey[],
): z.core.$ZodType | undefined {
  const here = unwrap(schema);
  const [key, ...rest] = path;
  if (key === undefined) return here;
  const meant = here instanceof z.ZodUnion ? optionMeant(here, value) : here;
  const inside =
    meant instanceof z.ZodObject
      ? meant.def.shape[String(key)]
      : meant instanceof z.ZodArray
        ? meant.def.element
        : undefined;
  return inside === undefined ? undefined : schemaAt(inside, fieldOf(value, key), rest);
}

/** A field of a value that may be anything; undefined when it has none of that name. */
export function fieldOf(value: unknown, key: PropertyKey): unknown {
  if (typeof value !== 'object' || value === null) return undefined;
  return Object.entries(value).find(([name]) => name === String(key))?.[1];
}

/** The fields that an object schema knows; empty for every other schema. */
export function fieldsOf(schema: z.core.$ZodType | undefined): string[] {
  return schema instanceof z.ZodObject ? Object.keys(schema.def.shape) : [];
}

/**
 * The option of a union that a value was meant to be: an operation is known by its only key (`addColumn`), a gate by
 * its `metric`. Undefined when the value gives no hint.
 */
export function optionMeant(union: z.ZodUnion, value: unknown): z.core.$ZodType | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  return union.def.options.find((option) => {
    const fields = fieldsOf(option);
    const only = fields[0];
    if (fields.length === 1 && only !== undefined) return only in value;
    const tag = option instanceof z.ZodObject ? option.def.shape['metric'] : undefined;
    return tag !== undefined && 'metric' in value && z.safeParse(tag, value.metric).success;
  });
}

/** The names that tell the options of a union apart: operations, or metrics. */
export function optionNames(union: z.ZodUnion): { readonly by: 'key' | 'metric' | 'none'; readonly names: string[] } {
  const keys: string[] = [];
  const metrics: string[] = [];
  for (const option of union.def.options) {
    const fields = fieldsOf(option);
    const tag = option instanceof z.ZodObject ? option.def.shape['metric'] : undefined;
    if (tag instanceof z.ZodLiteral || tag instanceof z.ZodEnum) metrics.push(...valuesOf(tag));
    else keys.push(...(fields.length === 1 ? fields : []));
  }
  if (metrics.length > 0) return { by: 'metric', names: metrics };
  return keys.length > 0 ? { by: 'key', names: keys } : { by: 'none', names: [] };
}

function valuesOf(tag: z.ZodLiteral | z.ZodEnum): string[] {
  return (tag instanceof z.ZodLiteral ? tag.def.values : Object.values(tag.def.entries)).map(String);
}
