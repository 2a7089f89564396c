package edu.stanford.nlp.ling;

public class CoreAnnotations {
    public static class SentencesAnnotation {}
}
