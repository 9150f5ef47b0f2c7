declare module 'imurmurhash' {
  /** Incremental murmur3-32. With `new` it is an object of its own, without it a shared one. */
  class MurmurHash3 {
    constructor(key?: string, seed?: number);
    hash(key: string): this;
    /** The hash, an unsigned 32-bit number. */
    result(): number;
  }
  export = MurmurHash3;
}
