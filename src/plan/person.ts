/**
 * What two spellings of one person's name have in common: `Ada`, ` ada ` and `ＡＤＡ` are one approver. Characters that
 * nobody sees are left out.
 */
export function personKey(name: string): string {
  return name
    .normalize('NFKC')
    .replace(/\p{Cf}/gu, '')
    .trim()
    .replace(/\s+/g, ' ')
    .toLowerCase();
}
