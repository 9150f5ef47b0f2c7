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

/** Whether nobody sees anything of a name: spaces, and characters that leave no mark. */
export function isUnseenName(name: string): boolean {
  return personKey(name).replace(/[\p{Default_Ignorable_Code_Point}\p{White_Space}\p{Cc}\u2800]/gu, '') === '';
}
