// What the page reads from a checkpoint's config.json.

/** Pixels of the image from one value of the deepest layer to the next. */
export function totalStride(config) {
  return Math.max(...config.layers.map((layer) => layer.stride));
}

/** The 8-bit file, where the checkpoint has one, on the CPU; GPUs run the other one, having no 8-bit operators. */
export function modelFile(config, gpu) {
  const small = "onnx/model_quantized.onnx";
  return !gpu && small in config.files ? small : "onnx/model.onnx";
}

/** Memory of one run, as skipae estimates it: the layers of encoder and decoder, the image and the output. */
export function bytesPerPixel(config) {
  const encoder = config.layers.reduce((sum, layer) => sum + layer.channels / layer.stride ** 2, 0);
  return 4 * (2.2 * encoder + 9);
}
