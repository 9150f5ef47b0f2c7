/**
 * A name that an instance has given itself, as it is told to people: whoever may log in may report as anything. Without line
 * breaks and other characters that nobody sees, and no link in Markdown. Pure.
 */
export function toldName(name: string): string {
  return name.replaceAll(/\p{C}+/gu, '?').replaceAll('](', '] (');
}
