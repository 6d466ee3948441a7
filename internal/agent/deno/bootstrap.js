// Runs once in every session, before any code of the client. It defines
// __atoll, through which package deno fetches results and errors as JSON.
//
// What JSON cannot say becomes what is most useful in it:
//   Date, URL and whatever has toJSON   what toJSON returns
//   Map                                 an object if all keys are strings, else a list of pairs
//   Set                                 a list
//   Headers, URLSearchParams            an object (the last value of a name wins)
//   bigint                              a decimal string
//   ArrayBuffer and typed arrays        a list of numbers
//   RegExp                              a string
//   Error                               an object of name, message, stack, cause and its properties
//   any other object                    an object of its own enumerable properties
//   undefined, functions, symbols       null (left out of objects)
//   NaN, Infinity                       null
// Promises are awaited. A value that contains itself is refused.
(() => {
  const { keys, defineProperty, getOwnPropertyDescriptor, create } = Object;
  const { stringify, parse } = JSON;
  const { isArray, from } = Array;
  const { isView } = ArrayBuffer;
  const { isFinite } = Number;
  const { exit, inspect } = Deno;
  const maxResult = 32 * 1024 * 1024; // UTF-16 units

  const lastValue = getOwnPropertyDescriptor(globalThis, "_").get;
  const lastError = getOwnPropertyDescriptor(globalThis, "_error").get;
  let last; // what the client sees as "_"

  const absent = (v) => v === undefined || typeof v === "function" || typeof v === "symbol";

  function scalar(v) {
    switch (typeof v) {
      case "bigint":
        return `${v}`;
      case "number":
        return isFinite(v) ? v : null;
      case "string":
      case "boolean":
        return v;
      default:
        return null;
    }
  }

  function plain(v, path, seen) {
    if (typeof v !== "object" || v === null) return scalar(v);
    if (v instanceof Number || v instanceof String || v instanceof Boolean || v instanceof BigInt) {
      return scalar(v.valueOf());
    }
    if (seen.includes(v)) {
      throw new TypeError(`The value can't be returned because it contains itself, at ${path || "its top"}`);
    }
    seen.push(v);
    const out = container(v, path, seen);
    seen.pop();
    return out;
  }

  function container(v, path, seen) {
    const list = (items) => from(items, (item, i) => plain(item, `${path}[${i}]`, seen));
    if (isArray(v)) return list(v);
    if (isView(v) && !(v instanceof DataView)) return list(v);
    if (v instanceof DataView) return list(new Uint8Array(v.buffer, v.byteOffset, v.byteLength));
    if (v instanceof ArrayBuffer || v instanceof SharedArrayBuffer) return list(new Uint8Array(v));
    if (typeof v.toJSON === "function") {
      const json = v.toJSON("");
      return json === v ? own(v, path, seen) : plain(json, path, seen);
    }
    if (v instanceof Map) {
      const pairs = [...v];
      return pairs.every(([k]) => typeof k === "string") ? object(pairs, path, seen) : list(pairs);
    }
    if (v instanceof Headers || v instanceof URLSearchParams) return object([...v], path, seen);
    if (v instanceof Set) return list([...v]);
    if (v instanceof RegExp) return `${v}`;
    if (v instanceof Error) return errorObject(v, path, seen);
    return own(v, path, seen);
  }

  function object(pairs, path, seen) {
    const out = create(null);
    for (const [k, item] of pairs) {
      if (!absent(item)) out[k] = plain(item, `${path}.${k}`, seen);
    }
    return out;
  }

  const own = (v, path, seen) => object(keys(v).map((k) => [k, v[k]]), path, seen);

  function errorObject(v, path, seen) {
    const named = ["name", "message", "stack", "cause"].filter((k) => v[k] !== undefined);
    return object([...named, ...keys(v)].map((k) => [k, v[k]]), path, seen);
  }

  function serialise(v) {
    const json = stringify(plain(v, "", []));
    if (json.length > maxResult) {
      throw new RangeError(`The value is too large to return: ${json.length} characters of JSON, at most ${maxResult}`);
    }
    return json;
  }

  // remote turns a thrown value into the form in which errors travel.
  function remote(e, depth = 0) {
    if (typeof e !== "object" || e === null || typeof e.message !== "string") {
      return { constructorName: "Error", message: `Uncaught ${inspect(e)}` };
    }
    const nested = (x) => x instanceof Error && depth < 8 ? remote(x, depth + 1) : null;
    const string = (x) => typeof x === "string" ? x : null;
    return {
      constructorName: string(e.constructor?.name) || string(e.name) || "Error",
      message: e.message,
      code: string(e.code),
      stack: string(e.stack),
      name: string(e.name),
      cause: nested(e.cause),
      errors: isArray(e.errors) ? e.errors.slice(0, 100).map(nested).filter((x) => x) : null,
      suppressed: nested(e.suppressed),
      error: nested(e.error),
    };
  }

  const api = {
    // result answers the value of the code that was run last, as JSON.
    async result() {
      last = lastValue();
      return serialise(last = await last);
    },
    // call answers what the function that was evaluated last returns for the
    // arguments, a JSON list.
    async call(name, args) {
      const fn = lastValue();
      if (typeof fn !== "function") throw new TypeError(`${name} is not a function`);
      return serialise(await fn(...parse(args)));
    },
    // error answers what was thrown last.
    error() {
      const thrown = lastError();
      try {
        return stringify(remote(thrown));
      } catch {
        return '{"constructorName":"Error","message":"Uncaught value that can\'t be described"}';
      }
    },
    exit: () => exit(0),
  };
  defineProperty(globalThis, "__atoll", { value: Object.freeze(api) });
  defineProperty(globalThis, "_", {
    configurable: true,
    get: () => last,
    set: (value) => defineProperty(globalThis, "_", { value, writable: true, configurable: true, enumerable: true }),
  });
})();
