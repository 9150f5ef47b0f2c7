/** Where the router reports: pino, console with objects, or anything of this form. No values of users ever go there. */
export interface RouterLogger {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

export const SILENT: RouterLogger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
};
