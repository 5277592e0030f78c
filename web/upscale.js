/**
 * Enlarges the video with a Catmull-Rom filter on the GPU.
 *
 * The picture is small (256 pixels wide, say) and fills a window; the browser's own bilinear
 * filter leaves diamonds and blur.  Without a real GPU this module declines, and the video
 * element is shown as it is: a filter in software would take processor time from the model.
 */

const VERTEX = `#version 300 es
in vec2 corner;
out vec2 at;
void main() {
  at = vec2(corner.x, 1.0 - corner.y);
  gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
}`;

/** Catmull-Rom over 4x4 texels in nine bilinear reads (the two middle weights are merged). */
const FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D frame;
uniform vec2 size;
in vec2 at;
out vec4 colour;
void main() {
  vec2 position = at * size;
  vec2 centre = floor(position - 0.5) + 0.5;
  vec2 f = position - centre;
  vec2 w0 = f * (-0.5 + f * (1.0 - 0.5 * f));
  vec2 w1 = 1.0 + f * f * (-2.5 + 1.5 * f);
  vec2 w2 = f * (0.5 + f * (2.0 - 1.5 * f));
  vec2 w3 = f * f * (-0.5 + 0.5 * f);
  vec2 w12 = w1 + w2;
  vec2 p0 = (centre - 1.0) / size;
  vec2 p12 = (centre + w2 / w12) / size;
  vec2 p3 = (centre + 2.0) / size;
  vec3 sum = texture(frame, vec2(p0.x, p0.y)).rgb * w0.x * w0.y;
  sum += texture(frame, vec2(p12.x, p0.y)).rgb * w12.x * w0.y;
  sum += texture(frame, vec2(p3.x, p0.y)).rgb * w3.x * w0.y;
  sum += texture(frame, vec2(p0.x, p12.y)).rgb * w0.x * w12.y;
  sum += texture(frame, vec2(p12.x, p12.y)).rgb * w12.x * w12.y;
  sum += texture(frame, vec2(p3.x, p12.y)).rgb * w3.x * w12.y;
  sum += texture(frame, vec2(p0.x, p3.y)).rgb * w0.x * w3.y;
  sum += texture(frame, vec2(p12.x, p3.y)).rgb * w12.x * w3.y;
  sum += texture(frame, vec2(p3.x, p3.y)).rgb * w3.x * w3.y;
  colour = vec4(clamp(sum, 0.0, 1.0), 1.0);
}`;

/** More pixels than this gain nothing from so small a picture. */
const WIDEST_PX = 2560;

/** Draws frames of one video element, enlarged, into one canvas.  Owner: the picture. */
export class Upscaler {
  #gl;
  #canvas;
  #size;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {boolean} evenInSoftware  for looking at it on a machine without a GPU
   * @returns {Upscaler|null}         null when this machine should show the video as it is
   */
  static create(canvas, evenInSoftware) {
    const gl = canvas.getContext("webgl2", {
      alpha: false,
      antialias: false,
      depth: false,
      failIfMajorPerformanceCaveat: !evenInSoftware,
    });
    if (gl === null || (isSoftware(gl) && !evenInSoftware)) return null;
    const program = build(gl);
    return program ? new Upscaler(canvas, gl, program) : null;
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {WebGL2RenderingContext} gl
   * @param {WebGLProgram} program
   */
  constructor(canvas, gl, program) {
    this.#canvas = canvas;
    this.#gl = gl;
    gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), gl.STATIC_DRAW);
    const corner = gl.getAttribLocation(program, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    this.#size = gl.getUniformLocation(program, "size");
  }

  /** @param {HTMLVideoElement} video  its present frame, drawn at the canvas's size on screen */
  draw(video) {
    const [gl, canvas] = [this.#gl, this.#canvas];
    if (gl.isContextLost() || video.videoWidth === 0) return;
    const scale = Math.min(window.devicePixelRatio, WIDEST_PX / canvas.clientWidth);
    const width = Math.round(canvas.clientWidth * scale);
    const height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    gl.viewport(0, 0, width, height);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, video);
    gl.uniform2f(this.#size, video.videoWidth, video.videoHeight);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }
}

/**
 * Whether the processor does the drawing.  Browsers do not always count that as a performance
 * caveat (Chromium with SwiftShader does not), so the renderer's name is looked at as well.
 *
 * @param {WebGL2RenderingContext} gl
 */
function isSoftware(gl) {
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(String(name));
}

/** @param {WebGL2RenderingContext} gl @returns {WebGLProgram|null} */
function build(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of /** @type {[number, string][]} */ ([
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ])) {
    const shader = gl.createShader(kind);
    if (shader === null) return null;
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (gl.getProgramParameter(program, gl.LINK_STATUS)) return program;
  console.warn("the enlarging filter does not compile:", gl.getProgramInfoLog(program));
  return null;
}
