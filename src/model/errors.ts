/**
 * Every error that rubato throws on purpose is a `RubatoError` with a stable `code`.
 * Misuse throws at once and names the thing, the value given and what is allowed.
 */
export class RubatoError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** An option, argument or file field is not what it may be. `path` names it, as in `models[2].slo`. */
export class InvalidOptionError extends RubatoError {
  readonly path: string;

  constructor(path: string, problem: string) {
    super('ERR_RUBATO_INVALID_OPTION', `${path}: ${problem}`);
    this.path = path;
  }
}
