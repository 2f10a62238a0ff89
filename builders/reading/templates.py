"""Questions for corpora that have only answers, and requests beside questions, in two languages.

Captions, transcripts of text in images and plain texts have nothing but an answer. A corpus may bring questions of its
own for them, or name one of the sets here (`template` in the catalog). Speech needs no question to be recognised or
synthesised, and gets one only so: `transcribe-speech` and `speak-text` are there to be named.

Questions whose answer is a word, a letter or a derivation get a request that says so (`answer-briefly`,
`choose-option`, `explain-answer`): without it a model learns to be short, or long, where nobody asked for it.

Which one a record gets is a draw of its key, so that it never changes with the file's order. Many records share a
question word for word; that is wanted, because speech is synthesised once for each text.
"""

from collections.abc import Mapping

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import BadCatalog, Refused, UnknownName
from tarsia.schemas.identity import pick

TEMPLATES: dict[tuple[str, str], tuple[str, ...]] = {
    ("describe-image", "en"): (
        "What can you see in this picture?",
        "Please describe this image.",
        "Tell me in a sentence what is shown here.",
        "What is going on in this photo?",
        "Give a short description of the image.",
        "How would you caption this picture?",
        "Look at the image and say what it shows.",
        "Could you tell me what is in this photo?",
        "Sum up the content of this picture briefly.",
    ),
    ("describe-image", "zh"): (
        "这张图片里有什么？",
        "请描述一下这张图片。",
        "用一句话说说图中的内容。",
        "照片里正在发生什么？",
        "请简单介绍一下画面的内容。",
        "如果给这张图配一句说明，你会怎么写？",
        "看看这张图，告诉我你看到了什么。",
        "能讲讲这张照片拍的是什么吗？",
        "请概括一下图片的主要内容。",
    ),
    ("describe-video", "en"): (
        "What happens in this video?",
        "Please describe this clip.",
        "Tell me briefly what the video shows.",
        "What can be seen in this clip?",
        "Give a short account of the video.",
        "Watch the video and say what it is about.",
        "How would you caption this clip?",
        "Could you sum up what happens here?",
        "Describe the scene in this video.",
    ),
    ("describe-video", "zh"): (
        "这段视频里发生了什么？",
        "请描述一下这段视频。",
        "简单说说视频的内容。",
        "视频里能看到什么？",
        "请用几句话介绍这段视频。",
        "看完这段视频，告诉我它讲了什么。",
        "给这段视频写一句说明吧。",
        "能概括一下视频里的情景吗？",
        "视频里的人或物在做什么？",
    ),
    ("read-text", "en"): (
        "Read all the text in this image.",
        "What does the text in the picture say?",
        "Please write down every word you can see.",
        "Transcribe the text shown here.",
        "Which words are written in this image?",
        "Copy out the text of this picture in reading order.",
        "Can you read what is written here?",
        "Extract the text from the image.",
        "Give me the full text that appears in this picture.",
    ),
    ("read-text", "zh"): (
        "读出这张图片里的所有文字。",
        "图中写了什么？",
        "请把你看到的文字都写下来。",
        "请转写图片上的文字。",
        "这张图里有哪些字？",
        "按阅读顺序抄录图中的文字。",
        "能读一下上面写的内容吗？",
        "请提取图片中的文字。",
        "把画面里出现的文字完整地告诉我。",
    ),
    ("list-text", "en"): (
        "List every piece of text in this image, one to a line.",
        "Which pieces of text are there in the picture? Put each on a line of its own.",
        "Write down all texts that you find here, one below the other.",
        "What is written in this image? Give me a list.",
        "Make a list of the words and lines in this picture.",
        "Name each text in the image on a separate line.",
        "Find all the text in this photo and list it.",
        "Please list what is written here, item by item.",
        "Give every text in the picture as an entry of a list.",
    ),
    ("list-text", "zh"): (
        "请列出图中的每一处文字，每处一行。",
        "图里有哪几处文字？请分行写出。",
        "把找到的文字一条一条写下来。",
        "这张图上写了什么？请列成清单。",
        "请把图片里的文字逐条列出来。",
        "请逐行列出画面中的各处文字。",
        "找出图中所有的文字，一处占一行。",
        "请一项一项地列出上面写的内容。",
        "把图中出现的文字分条列出。",
    ),
    ("locate-text", "en"): (
        'Where is the text "{text}"? Answer as [left, top, right, bottom], from 0 to 1000.',
        'Locate "{text}" in the image: left, top, right and bottom in thousandths of its size.',
        'Give the box around "{text}" as [left, top, right, bottom] on a scale of 0 to 1000.',
        'In which box does "{text}" stand? Use [left, top, right, bottom] between 0 and 1000.',
        'Find "{text}" in the picture and give its corners as [left, top, right, bottom], 0 to 1000.',
        'Where in the picture is "{text}" written? [left, top, right, bottom], each from 0 to 1000, please.',
        'Show me where "{text}" is, as [left, top, right, bottom] in thousandths of the picture.',
        'What are the bounds of "{text}"? Give [left, top, right, bottom] from 0 to 1000.',
    ),
    ("locate-text", "zh"): (
        "“{text}”在图中的什么位置？请用[左, 上, 右, 下]回答，范围是0到1000。",
        "请在图中找到“{text}”，给出左、上、右、下的千分比坐标，写成[左, 上, 右, 下]。",
        "请按0到1000的比例，用[左, 上, 右, 下]标出“{text}”的边框。",
        "文字“{text}”在哪个框里？用0到1000之间的[左, 上, 右, 下]表示。",
        "找出图片里的“{text}”，以[左, 上, 右, 下]给出它的范围，数值为0到1000。",
        "“{text}”写在画面的哪里？请写出[左, 上, 右, 下]，每个数从0到1000。",
        "请指出“{text}”的位置，用画面的千分比写成[左, 上, 右, 下]。",
        "“{text}”的边界在哪里？请给出0到1000的[左, 上, 右, 下]。",
    ),
    ("text-in-box", "en"): (
        "What is written in {box}? The box is [left, top, right, bottom], from 0 to 1000.",
        "Read the text inside {box}, which is [left, top, right, bottom] in thousandths of the image.",
        "Which words stand in the box {box}? Its sides are left, top, right and bottom between 0 and 1000.",
        "Give me the text at {box}: [left, top, right, bottom] on a scale of 0 to 1000.",
        "What does the text in the area {box} say? [left, top, right, bottom], each from 0 to 1000.",
        "Transcribe what is inside {box}, as [left, top, right, bottom] in thousandths of the picture.",
        "Look at {box}, which is [left, top, right, bottom] from 0 to 1000. What do you read there?",
        "Please read out {box}: left, top, right and bottom of the box in thousandths of the image.",
    ),
    ("text-in-box", "zh"): (
        "{box}处写着什么？方框为[左, 上, 右, 下]，范围是0到1000。",
        "请读出{box}框内的文字，坐标为[左, 上, 右, 下]的千分比。",
        "方框{box}里有哪些字？四个数是左、上、右、下，在0到1000之间。",
        "请告诉我{box}处的文字，[左, 上, 右, 下]按0到1000的比例。",
        "区域{box}中的文字是什么？[左, 上, 右, 下]，每个数从0到1000。",
        "请转写{box}里的内容，它是[左, 上, 右, 下]，用画面的千分比表示。",
        "看{box}这个位置，[左, 上, 右, 下]从0到1000，那里写了什么？",
        "请念出{box}中的文字，坐标是图片的千分比[左, 上, 右, 下]。",
    ),
    ("transcribe-speech", "en"): (
        "Write down what is said.",
        "Please transcribe this recording.",
        "What does the speaker say, word for word?",
        "Turn this speech into text.",
        "Put the spoken words into writing.",
        "Give me the transcript of this clip.",
        "Listen, and write what you hear.",
        "Which words are spoken here?",
    ),
    ("transcribe-speech", "zh"): (
        "请写下说话的内容。",
        "请转写这段录音。",
        "说话人一字一句说了什么？",
        "请把这段语音转成文字。",
        "请把听到的话写出来。",
        "请给出这段音频的文字稿。",
        "听一听，写下你听到的内容。",
        "这里说了哪些话？",
    ),
    ("speak-text", "en"): (
        "Read this text aloud.",
        "Please say the following words.",
        "Speak this text.",
        "Turn this text into speech.",
        "Say this out loud.",
        "Give voice to these words.",
        "How does this text sound when it is read?",
        "Read out what is written here.",
    ),
    ("speak-text", "zh"): (
        "请朗读这段文字。",
        "请说出下面的话。",
        "请把这段文字念出来。",
        "请把这段文字转成语音。",
        "请大声读出来。",
        "请用声音读出这些字。",
        "这段文字读出来是什么样的？",
        "请读出这里写的内容。",
    ),
    ("answer-briefly", "en"): (
        "Answer with a word or a short phrase.",
        "A word or two will do.",
        "Keep the answer to a few words.",
        "Please answer briefly, without a sentence.",
        "Just the answer, please.",
        "Reply in as few words as you can.",
        "Give only the short answer.",
        "One word or a short phrase is enough.",
    ),
    ("answer-briefly", "zh"): (
        "请用一个词或短语回答。",
        "一两个词就可以。",
        "请用几个字作答。",
        "请简短回答，不必写成句子。",
        "只要答案就好。",
        "请用尽量少的字回答。",
        "请只给出简短的答案。",
        "用一个词或短语作答即可。",
    ),
    ("choose-option", "en"): (
        "Choose the right answer.",
        "Which of these is correct?",
        "Pick the correct option.",
        "Answer with one of the options.",
        "Which option is right?",
        "Select the answer that fits.",
        "Name the correct choice.",
        "Tell me which one is true.",
    ),
    ("choose-option", "zh"): (
        "请选出正确的答案。",
        "以上哪一项是正确的？",
        "请选择正确的选项。",
        "请从选项中选一个作答。",
        "哪个选项是对的？",
        "请选出合适的答案。",
        "请说出正确的那一项。",
        "告诉我哪一项正确。",
    ),
    ("explain-answer", "en"): (
        "Explain how you get there.",
        "Show your reasoning, then give the answer.",
        "Work it out step by step.",
        "Give the reasons and then the answer.",
        "Think it through and tell me the result.",
        "Please explain your answer.",
        "How do you know? End with the answer.",
        "Walk me through it to the answer.",
    ),
    ("explain-answer", "zh"): (
        "请说明你是怎么得出答案的。",
        "请先写出推理过程，再给出答案。",
        "请一步一步地解答。",
        "请先说理由，再说答案。",
        "请想清楚，再告诉我结果。",
        "请解释你的答案。",
        "你是怎么知道的？最后请给出答案。",
        "请带我一步步得出答案。",
    ),
    ("continue-text", "en"): (
        "Continue this text.",
        "How might this text go on?",
        "Please write on from here.",
        "Carry on with the following text.",
        "This is the beginning of a text; write the rest.",
        "Take up this text where it stops.",
        "What could come next in this text?",
        "Go on from these lines.",
    ),
    ("continue-text", "zh"): (
        "请接着写下去。",
        "这段文字接下来可能怎么写？",
        "请续写下面的内容。",
        "请把下面的文字继续写完。",
        "这是一篇文章的开头，请写出后面的内容。",
        "请从这里往下写。",
        "下文可能是什么？请写出来。",
        "请顺着这几句话写下去。",
    ),
    ("sound", "en"): (
        "What can you hear in this recording?",
        "Please describe this sound.",
        "Tell me in a sentence what is heard here.",
        "What is going on in this audio clip?",
        "Give a short description of the recording.",
        "How would you caption this sound?",
        "Listen to the clip and say what it is.",
        "Could you tell me what makes this sound?",
        "Sum up briefly what can be heard.",
    ),
    ("sound", "zh"): (
        "这段录音里能听到什么？",
        "请描述一下这段声音。",
        "用一句话说说你听到的内容。",
        "这段音频里正在发生什么？",
        "请简单介绍一下这段录音。",
        "给这段声音写一句说明吧。",
        "听听这段音频，告诉我是什么声音。",
        "能说说这是什么发出的声音吗？",
        "请概括一下你听到了什么。",
    ),
}


REQUESTS = frozenset({"answer-briefly", "choose-option", "explain-answer"})  # stand beside a record's own question
ABOUT_BOXES = frozenset({"locate-text", "text-in-box"})  # speak of a piece of text and its place
NAMES = tuple(sorted({name for name, _ in TEMPLATES} - REQUESTS))  # what a catalog may name


def choose(name: str, language: str, at: At) -> str:
    """One of the questions of that name and language, by the draw of the record's key; the corpus's own come first."""
    given = at.corpus.template
    if name not in REQUESTS and isinstance(given, Mapping):
        return pick(given[language], at.key, "template")
    if name not in REQUESTS and isinstance(given, str):
        if given in ABOUT_BOXES and name != given:
            raise Refused("template-unfit", f"'{given}' asks about boxes, and there is none")
        name = given
    return pick(TEMPLATES[name, language], at.key, "template")


def check_template(corpus: Corpus, where: str) -> None:
    """Raises what is wrong with the questions that a catalog gives a corpus; their form was looked at before."""
    given = corpus.template
    if isinstance(given, str) and given not in NAMES:
        raise UnknownName("template", given, NAMES, where)
    for language, said in given.items() if isinstance(given, Mapping) else ():
        for question in said:
            if neutralise(question, keep=False) != question:
                raise BadCatalog(f"{where}: template.{language}: {question!r} holds a control token of the model")
