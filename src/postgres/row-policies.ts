/** A condition: the policy `p`, where it applies, shows and takes every row, unless there are restrictive ones. */
export const SHOWS_ALL = `(p.polpermissive AND p.polcmd = '*' AND coalesce(pg_get_expr(p.polqual, p.polrelid) = 'true', false)
                            AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true')`;

/**
 * A condition: the policies of the relation `c`, where they apply to a role, may hide rows from it or refuse some. One that
 * shows and takes every row does neither, unless there are restrictive ones.
 * @param role the oid of the role, as an expression
 */
export function mayHideRows(role: string): string {
  return `(EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive)
          OR NOT EXISTS (SELECT FROM pg_policy p, unnest(p.polroles) AS named
                          WHERE p.polrelid = c.oid AND ${SHOWS_ALL}
                            AND CASE named WHEN 0 THEN true ELSE pg_has_role(${role}, named, 'USAGE') END))`;
}
