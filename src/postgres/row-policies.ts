/**
 * A condition: the policies of the relation `c`, where they apply to a role, may hide rows from it or refuse some. One that
 * shows and takes every row does neither, unless there are restrictive ones.
 * @param role the oid of the role, as an expression
 */
export function mayHideRows(role: string): string {
  return `(EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive)
          OR NOT EXISTS (SELECT FROM pg_policy p, unnest(p.polroles) AS named
                          WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd = '*'
                            AND CASE named WHEN 0 THEN true ELSE pg_has_role(${role}, named, 'USAGE') END
                            AND pg_get_expr(p.polqual, p.polrelid) = 'true'
                            AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true'))`;
}
